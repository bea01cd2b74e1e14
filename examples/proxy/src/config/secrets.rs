//! The files that hold secrets: the admin token and the pepper. Read before anything is bound or made, by `check` and `serve` alike.

use std::error::Error as _;
use std::io;
use std::path::Path;

use usage_gate_core::secret::Pepper;

use super::load::{Faults, Loaded};

/// A shorter token can be guessed; an empty one would be no token at all.
const LEAST_TOKEN: usize = 16;

impl Loaded {
    /// Whether both files can be used as they are, or will be made.
    pub(crate) fn check_secrets(&self) -> Result<(), Faults> {
        let config = &self.config;
        let mut faults = Vec::new();
        if let Some(token_file) = config.admin_token_file() {
            // Our own is made on the first start; one that was named is the operator's to make.
            let ours_to_make = config.admin.token_file.is_none() && !token_file.exists();
            if !ours_to_make && let Err(fault) = read_token(&token_file) {
                faults.push(self.about("admin.token_file", &fault));
            }
        }
        if config.is_shared() && config.keys.pepper_file.is_none() {
            let fault = "is missing: with PostgreSQL every node has the same pepper: write 32 random bytes or more into a file, \
                         such as by `openssl rand -hex 32`, give it to every node, and name it";
            faults.push(self.about("keys.pepper_file", fault));
        }
        match Pepper::read(config.pepper_file()) {
            Ok(None) if config.is_shared() && config.keys.pepper_file.is_some() => {
                let fault =
                    format!("{} is not there: give this node the file of the others", config.pepper_file().display());
                faults.push(self.about("keys.pepper_file", &fault));
            }
            Ok(_) => {}
            Err(error) => {
                let reason = error.source().map_or_else(String::new, |source| format!(": {source}"));
                faults.push(self.about("keys.pepper_file", &format!("{error}{reason}")));
            }
        }
        if let Err(Faults(of_stores)) = self.stores() {
            faults.extend(of_stores);
        }
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }
}

/// The admin token of a file.
pub(crate) fn read_token(path: &Path) -> Result<String, String> {
    let name = path.display();
    let token = std::fs::read_to_string(path).map_err(|fault| match fault.kind() {
        io::ErrorKind::NotFound => {
            format!("{name} is not there: write a token into it, or leave the key out to have one made")
        }
        _ => format!("{name} cannot be read: name a file that this user may read: {fault}"),
    })?;
    let token = token.trim();
    if token.len() < LEAST_TOKEN {
        return Err(format!("{name} has {} characters: a token has at least {LEAST_TOKEN}", token.len()));
    }
    Ok(token.to_owned())
}
