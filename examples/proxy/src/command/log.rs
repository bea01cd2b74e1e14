//! What is logged, and how: to standard error, because standard output is the command's answer.

use anyhow::Context;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// What to log: error, warn, info, debug, or by module as `usage_gate_core=debug,warn`
    #[arg(long, env = "USAGE_GATE_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// A JSON object a line
    Json,
}

impl Options {
    /// For a command whose answer is all that people want to see: what is wrong, as text.
    pub(super) fn warnings() -> Self {
        Self { log: "warn".to_owned(), log_format: Format::Text }
    }
}

/// Begins to log. Control characters in what clients sent come out escaped.
pub(super) fn start(options: &Options) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&options.log).with_context(|| format!("--log `{}`", options.log))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match options.log_format {
        Format::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(terminal).try_init()
        }
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|fault| anyhow::anyhow!("logging: {fault}"))
}
