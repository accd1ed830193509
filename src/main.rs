//! The one binary.

mod cli;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;

/// Slots come from a pool; what is left are small things on many threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Memory that was given back is used again: an array needs as much again with the next load, and to return it to the system and
/// ask anew takes longer than all else that the allocator does.
#[expect(unsafe_code, reason = "the allocator has no other way to be told")]
fn keep_memory() {
    // SAFETY: this sets a number, and no thread but this one has begun.
    unsafe { libmimalloc_sys::mi_option_set(MIMALLOC_PURGE_DELAY, -1) };
}

/// `mi_option_purge_delay` of `mimalloc.h`; -1 is never.
const MIMALLOC_PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    keep_memory();
    let cli = Cli::parse();
    match &cli.command {
        Command::Serve { take_older_store } => cli::serve(&cli.config, *take_older_store),
        Command::Demo { once, dir } => cli::demo(*once, dir.clone()),
        Command::Check => cli::check(&cli.config),
        Command::RelayCheck { journal, first, second, with, apply, as_of } => {
            cli::relay_check([journal, first, second], with, apply, *as_of)
        }
        Command::VerifyProof { file, with, image } => cli::verify_proof(file, with, image),
        Command::Fsck { dir, parity } => cli::fsck(dir, *parity, cli.json),
        Command::Shell => cli::interactive(&cli),
        Command::Completions { shell } => cli::completions(*shell),
        Command::Man { dir } => cli::man(dir),
        Command::OfShell(_) => cli::one_command(&cli),
    }
}
