//! The one binary.

mod cli;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

/// Slots come from a pool; what is left are small things on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Command::Serve => cli::serve(&cli.config),
        Command::Demo { once, dir } => cli::demo(*once, dir.clone()),
        Command::Check => cli::check(&cli.config),
        Command::RelayCheck { journal, first, second, apply, as_of } => {
            cli::relay_check([journal, first, second], apply, *as_of)
        }
        Command::Shell => cli::interactive(&cli),
        Command::Completions { shell } => cli::completions(*shell),
        Command::OfShell(_) => cli::one_command(&cli),
    }
}
