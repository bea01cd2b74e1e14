//! What records call by number, by name: the text in front of a segment.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{MeterIndex, Meters};

/// The node, the meters and the routes of the gate that writes a stream. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    pub(crate) node: Arc<str>,
    pub(crate) meters: Meters,
    pub(crate) routes: Arc<[Arc<str>]>,
    /// Where the meters of the writer are in `meters`, in the writer's order.
    places: Arc<[MeterIndex]>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    node: String,
    meters: Vec<String>,
    routes: Vec<String>,
}

impl Schema {
    /// What this gate writes.
    pub(crate) fn new(node: &str, meters: Meters, routes: impl IntoIterator<Item = Arc<str>>) -> Self {
        let places = meters.iter().map(|(at, _)| at).collect();
        Self { node: node.into(), meters, routes: routes.into_iter().collect(), places }
    }

    /// The text for the front of a segment.
    pub(crate) fn to_text(&self) -> String {
        let text = Text {
            node: self.node.to_string(),
            meters: self.meters.iter().map(|(_, name)| name.to_owned()).collect(),
            routes: self.routes.iter().map(ToString::to_string).collect(),
        };
        serde_json::to_string(&text).unwrap_or_default()
    }

    /// What another version may have written: its built-in meters need not be ours.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let text: Text = serde_json::from_str(text).ok()?;
        let meters = Meters::new(&text.meters).ok()?;
        let places = text.meters.iter().map(|name| meters.index(name)).collect::<Option<_>>()?;
        Some(Self { node: text.node.into(), meters, routes: text.routes.into_iter().map(Arc::from).collect(), places })
    }

    /// The meter that the writer had at this place.
    pub(crate) fn meter(&self, place: usize) -> Option<MeterIndex> {
        self.places.get(place).copied()
    }

    /// The name of the writer's route; empty for none.
    pub(crate) fn route(&self, route: u16) -> Arc<str> {
        self.routes.get(usize::from(route)).map_or_else(|| Arc::from(""), Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_the_same_after_it_was_written() {
        let schema = Schema::new("a1", Meters::new(["rows"]).unwrap(), ["item".into(), "other".into()]);
        let read = Schema::from_text(&schema.to_text()).unwrap();
        assert_eq!((&*read.node, &*read.route(1), &*read.route(u16::MAX)), ("a1", "other", ""));
        assert_eq!(read.meter(6), read.meters.index("rows"));
        assert_eq!(read.meter(7), None);
    }

    #[test]
    fn meters_of_another_version_are_known_by_name() {
        let text = r#"{"node":"a1","meters":["rows","requests"],"routes":[]}"#;
        let read = Schema::from_text(text).unwrap();
        assert_eq!(read.meter(0), read.meters.index("rows"));
        assert_eq!(read.meter(1), Some(MeterIndex::REQUESTS));
        assert!(Schema::from_text("").is_none());
    }
}
