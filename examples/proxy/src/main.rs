//! `usage-gate`: the standalone gate in front of any HTTP API, and the commands around it.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage.

mod command;
mod config;
mod forward;
mod listen;
mod node;
mod sample;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use command::{Command, WrongUsage};

/// Puts keys, limits and metering in front of an HTTP API.
#[derive(Debug, Parser)]
#[command(name = "usage-gate", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => {
            // Help and version come this way too, with 0; clap knows which stream each belongs to.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    // For stores that are reached by TLS. It fails only if there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match command::run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has had enough: `usage-gate key list | head -1`.
        Err(fault) if is_broken_pipe(&fault) => ExitCode::SUCCESS,
        Err(fault) => {
            for line in format!("{fault:#}").lines() {
                // Nobody is left to tell if standard error is gone.
                let _ = writeln!(std::io::stderr().lock(), "error: {line}");
            }
            if fault.is::<WrongUsage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn is_broken_pipe(fault: &anyhow::Error) -> bool {
    fault.downcast_ref::<std::io::Error>().is_some_and(|fault| fault.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_options_of_every_command_fit_together() {
        Arguments::command().debug_assert();
    }
}
