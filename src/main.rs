//! The one binary.

mod cli;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Command::Check => cli::check(&cli.config),
        Command::Shell => cli::interactive(&cli),
        Command::Completions { shell } => cli::completions(*shell),
        Command::OfShell(command) => cli::one_command(&cli, command),
    }
}
