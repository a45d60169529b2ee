//! Where log events go.

use std::{fs::OpenOptions, io, sync::Mutex};

use sandbox_runtime::config::{LogConfig, LogFormat};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Sends events to standard error, or to the configured file.
///
/// # Errors
/// The level is no filter, or the file cannot be written.
pub(crate) fn init(config: &LogConfig) -> Result<(), String> {
    // The HTTP library's own notes are of use only to who asks for them by name, and what strangers send is no error of ours.
    let level = if config.level.contains("actix") {
        config.level.clone()
    } else {
        format!("actix_server=warn,actix_http=off,{}", config.level)
    };
    let filter = EnvFilter::try_new(level).map_err(|error| format!("server.log.level: {error}"))?;
    let layer = match &config.file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.map_err(|error| format!("server.log.file {}: {error}", path.display()))?;
            layer(config.format, false, Mutex::new(file))
        }
        None => layer(config.format, io::IsTerminal::is_terminal(&io::stderr()), io::stderr),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().map_err(|error| error.to_string())
}

fn layer<S, W>(format: LogFormat, ansi: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'w> tracing_subscriber::fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(writer);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    }
}
