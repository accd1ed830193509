//! The shipping binary as processes, with real sockets, real files and foreign tools. One file for each promise.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod bench_smoke;
mod block_device;
mod by_command;
mod cascade;
mod compare;
mod configuration;
mod drills;
mod fences;
mod foreign_clients;
mod foreign_takeover;
mod foreign_target;
mod fsck;
mod growth;
mod identity;
mod journal_volumes;
mod kill_anything;
mod kill_auxiliary;
mod kill_primary;
mod link;
mod metrics;
mod older_store;
mod operator_errors;
mod paused;
mod qemu_image;
mod relay;
mod relay_here;
mod reversal;
mod reversal_of_three;
mod rewind;
mod rounds;
mod snapshots;
mod split_brain;
mod ssh;
mod stopped_auxiliary;
mod suspended;
mod synchronous;
mod takeover;
mod three_centres;
mod upstream;
mod visibility;
