//! `holdfast serve`: one array in the foreground, until a signal ends it.

use crate::array::Array;
use crate::array::env::Env;
use crate::config::Config;
use crate::shell::command::Shell;
use crate::shell::socket::ManagementSocket;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the array until SIGTERM or SIGINT, then stops it cleanly. SIGHUP reloads nothing yet and says so.
///
/// # Errors
/// The array cannot be started, or not everything could be made durable at its end.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let env = Env::real(&config)?;
    let (clock, path, clients) = (env.clock.clone(), config.socket(), config.limits.shell_clients);
    let array = Array::start(config, env).await?;
    let socket = ManagementSocket::bind(&path)?;
    let shell = Shell::new(array.clone(), clock);
    tracing::info!(array = %array.name(), portals = ?array.portals(), "serving");
    // Whoever started us without asking for readiness has no socket to tell it to.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let serving = socket.serve(shell, clients);
    tokio::pin!(serving);
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => tracing::warn!("SIGHUP: nothing of the configuration can be reloaded yet"),
            () = &mut serving => break,
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    stop(&array).await
}

async fn stop(array: &Arc<Array>) -> anyhow::Result<()> {
    array.stop().await?;
    tracing::info!("stopped cleanly");
    Ok(())
}
