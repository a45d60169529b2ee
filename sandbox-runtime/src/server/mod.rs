//! The HTTP server: actix-web and nothing else of the runtime's rules.

mod access;
mod connection;
mod control;
mod download;
mod extract;
mod lifeline;
mod multipart;
mod render;
mod routes;
mod runs;
mod shutdown;
mod stream;
mod transfer;
mod upload;

use std::{
    future, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use actix_web::{
    App, HttpMessage as _, HttpServer,
    body::MessageBody,
    dev::{Server, Service as _, ServiceFactory, ServiceRequest, ServiceResponse},
    web,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_util::either::Either;

use crate::{
    config::Config,
    host::{Host, HostError},
    linked::Linked,
    transfer::STALL_LIMIT,
};

use access::{Access, Refused};
use control::Control;
pub use lifeline::Lifeline;
use lifeline::{Activity, Announced};
use shutdown::Stop;

/// Serves the linked backends over HTTP.
///
/// ```no_run
/// use sandbox_runtime::{config::Config, server::HttpServiceServer};
///
/// fn main() -> Result<(), sandbox_runtime::server::ServerError> {
///     HttpServiceServer::builder().config(Config::default()).run()
/// }
/// ```
#[derive(Debug)]
pub struct HttpServiceServer {
    address: SocketAddr,
    control: Option<SocketAddr>,
    stop: UnboundedSender<Stop>,
    thread: JoinHandle<io::Result<()>>,
    announced: Option<Arc<Announced>>,
}

/// What a server is made of.
#[derive(Default)]
pub struct HttpServiceServerBuilder {
    config: Config,
    linked: Option<Linked>,
    on_listening: Option<Box<dyn FnOnce(SocketAddr) + Send>>,
    on_control_listening: Option<Box<dyn FnOnce(SocketAddr) + Send>>,
    lifeline: Option<Lifeline>,
}

/// Why a server did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Configuration, backends or data folder.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// `server.host` and `server.port`.
        address: String,
        /// What the system says.
        error: io::Error,
    },
    /// The control port cannot be listened on.
    #[error("server.control_port: cannot listen on {address}: {error}")]
    ListenControl {
        /// `server.host` and `server.control_port`.
        address: String,
        /// What the system says.
        error: io::Error,
    },
    /// The folder of the clients that it was started for cannot be used.
    #[error("the folder {folder} of the clients cannot be used: {error}")]
    Lifeline {
        /// The folder.
        folder: String,
        /// What the system says.
        error: io::Error,
    },
    /// The HTTP server failed.
    #[error("the HTTP server failed: {0}")]
    Http(io::Error),
}

/// What every route can reach.
pub(crate) struct Service {
    pub(crate) executor: Arc<crate::executor::ToolExecutor>,
    pub(crate) title: String,
    pub(crate) version: &'static str,
    pub(crate) allow_shutdown: bool,
    pub(crate) body_limit_bytes: usize,
    pub(crate) upload_limit_bytes: u64,
    pub(crate) stop: UnboundedSender<Stop>,
}

/// What each port serves with.
#[derive(Clone)]
struct Parts {
    service: web::Data<Service>,
    access: web::Data<Access>,
    body_limit: usize,
}

impl HttpServiceServerBuilder {
    /// The configuration; the default one if none is given.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// The backends; those that the linker found if none are given.
    #[must_use]
    pub fn linked(mut self, linked: Linked) -> Self {
        self.linked = Some(linked);
        self
    }

    /// Called once the server listens, with its address.
    #[must_use]
    pub fn on_listening(mut self, listening: impl FnOnce(SocketAddr) + Send + 'static) -> Self {
        self.on_listening = Some(Box::new(listening));
        self
    }

    /// Called after that with the address of the control port, if `server.control_port` asks for one.
    #[must_use]
    pub fn on_control_listening(mut self, listening: impl FnOnce(SocketAddr) + Send + 'static) -> Self {
        self.on_control_listening = Some(Box::new(listening));
        self
    }

    /// Serves for the clients of a folder that they share, and announces itself there.
    #[must_use]
    pub fn lifeline(mut self, lifeline: Lifeline) -> Self {
        self.lifeline = Some(lifeline);
        self
    }

    /// Serves until SIGTERM, Ctrl-C or `POST /shutdown`; then everything is cleaned up.
    ///
    /// # Errors
    /// Why the server did not start, or did not end well.
    pub fn run(self) -> Result<(), ServerError> {
        let server = self.start()?;
        shutdown::on_signals(server.stop.clone());
        server.join()
    }

    /// Serves in the background and leaves signals to the caller.
    ///
    /// # Errors
    /// Why the server did not start.
    pub fn start(self) -> Result<HttpServiceServer, ServerError> {
        let Self { config, linked, on_listening, on_control_listening, lifeline } = self;
        // Also for a configuration that was made in code, and before anything listens: beyond loopback it needs tokens.
        config.validate().map_err(HostError::from)?;
        let linked = linked.unwrap_or_else(Linked::discover);
        let server = &config.server;
        let listener =
            listen(&server.host, server.port).map_err(|(address, error)| ServerError::Listen { address, error })?;
        let address = listener.local_addr().map_err(ServerError::Http)?;
        let control = server.control_port.map(|port| listen(&server.host, port)).transpose();
        let control = control.map_err(|(address, error)| ServerError::ListenControl { address, error })?;
        let host = Host::start(&config, &linked)?;
        let (stop, stops) = unbounded_channel();
        let activity = lifeline.as_ref().map(|_| Activity::new());
        let executor = host.executor().clone();
        let service = web::Data::new(Service {
            executor: host.executor().clone(),
            title: config.server.title.clone(),
            version: env!("CARGO_PKG_VERSION"),
            allow_shutdown: config.server.allow_shutdown,
            body_limit_bytes: config.server.body_limit_mib * 1024 * 1024,
            upload_limit_bytes: config.server.upload_limit_mib * 1024 * 1024,
            stop: stop.clone(),
        });
        let parts = Parts {
            service,
            access: web::Data::new(Access::new(&config.server, activity.clone())),
            body_limit: config.server.body_limit_mib * 1024 * 1024,
        };
        let control = control.map(|listener| Control::start(listener, parts.clone())).transpose();
        let control = control.map_err(ServerError::Http)?;
        let control_address = control.as_ref().map(Control::address);
        // Before anybody is answered: who finds the server knows then whom it is for.
        let announced = match (lifeline, activity) {
            (Some(lifeline), Some(activity)) => {
                let folder = lifeline.folder.display().to_string();
                let held = lifeline.hold(address, activity, executor, stop.clone());
                Some(held.map_err(|error| ServerError::Lifeline { folder, error })?)
            }
            _ => None,
        };
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("sandbox-http".into())
            .spawn(move || serve(&config, listener, parts, control, host, stops, &ready))
            .map_err(ServerError::Http)?;
        // A sender that is gone means that the thread ended: `join` has its error.
        if is_ready.recv().is_ok() {
            tracing::info!(%address, "listening");
            if let Some(on_listening) = on_listening {
                on_listening(address);
            }
            if let Some(address) = control_address {
                tracing::info!(%address, "the control port listens");
                if let Some(on_listening) = on_control_listening {
                    on_listening(address);
                }
            }
        }
        Ok(HttpServiceServer { address, control: control_address, stop, thread, announced })
    }
}

impl HttpServiceServer {
    /// A server to be.
    pub fn builder() -> HttpServiceServerBuilder {
        HttpServiceServerBuilder::default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it answers even while tools block every worker, if `server.control_port` is set.
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control
    }

    /// Ends it as SIGTERM would, and waits until everything is cleaned up.
    ///
    /// # Errors
    /// The HTTP server failed.
    pub fn stop(self) -> Result<(), ServerError> {
        let _ = self.stop.send(Stop { force: false, cleanup_sessions: true });
        self.join()
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// The HTTP server failed.
    pub fn join(self) -> Result<(), ServerError> {
        let panicked = |_| io::Error::other("its thread panicked");
        let ended = self.thread.join().map_err(panicked).and_then(|result| result).map_err(ServerError::Http);
        drop(self.announced);
        ended
    }
}

/// Connections that may wait to be taken; the system may allow fewer.
const BACKLOG: i32 = 4096;

fn listen(host: &str, port: u16) -> Result<TcpListener, (String, io::Error)> {
    let address = (host, port);
    let listen = || {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in address.to_socket_addrs()? {
            match TcpListener::bind(address) {
                Ok(listener) => {
                    // The standard library lets 128 wait: of more that come at once, each waits a second to try again.
                    rustix::net::listen(&listener, BACKLOG)?;
                    end_stalled(&listener);
                    return Ok(listener);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    listen().map_err(|error| (format!("{host}:{port}"), error))
}

/// Ends the connections of clients that take nothing of what is sent to them: the server writes to them, and notices that a
/// download was cut, only when there is room.
fn end_stalled(listener: &TcpListener) {
    let milliseconds = u32::try_from(STALL_LIMIT.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(listener, milliseconds) {
        tracing::debug!(%error, "connections that stall are not ended");
    }
}

/// What runs on each worker of a port.
fn app(
    parts: &Parts,
    routes: fn(&mut web::ServiceConfig),
) -> App<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<impl MessageBody + use<>>,
        Error = actix_web::Error,
        InitError = (),
    > + use<>,
> {
    App::new()
        .app_data(parts.service.clone())
        .app_data(parts.access.clone())
        .app_data(web::PayloadConfig::new(parts.body_limit))
        .app_data(web::QueryConfig::default().error_handler(|error, _| render::bad_query(&error).into()))
        .wrap_fn(|mut request, service| match access::check(&request) {
            Ok(None) => Either::Left(service.call(request)),
            Ok(Some(page)) => Either::Right(Either::Left(access::for_page(service.call(request), page))),
            Err(Refused { error, page }) => {
                let refused = render::Failure::unread(error, page, request.take_payload());
                Either::Right(Either::Right(future::ready(Err(refused.into()))))
            }
        })
        .configure(routes)
}

/// What serves a port. `begin` is called first on each worker.
fn on(
    listener: TcpListener,
    workers: usize,
    parts: Parts,
    routes: fn(&mut web::ServiceConfig),
    begin: fn(),
) -> io::Result<Server> {
    let app = move || {
        begin();
        app(&parts, routes)
    };
    let server = HttpServer::new(app)
        .workers(workers)
        // Otherwise a client that left is not noticed while its call runs.
        .h1_allow_half_closed(false)
        .on_connect(connection::keep)
        // Events are small, and each is to be there at once.
        .tcp_nodelay(true)
        .disable_signals()
        .shutdown_timeout(1)
        .listen(listener)?;
    Ok(server.run())
}

/// The HTTP thread: serves, then drains, cleans up, and only then stops the workers, on which the last calls run.
fn serve(
    config: &Config,
    listener: TcpListener,
    parts: Parts,
    control: Option<Control>,
    host: Host,
    stops: tokio::sync::mpsc::UnboundedReceiver<Stop>,
    ready: &mpsc::Sender<()>,
) -> io::Result<()> {
    let workers =
        config.server.workers.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let host = Arc::new(host);
    let kept = host.clone();
    let served = actix_web::rt::System::new().block_on(async move {
        let executor = host.executor().clone();
        let server = on(listener, workers, parts, routes::configure, || {})?;
        let handle = server.handle();
        let serving = actix_web::rt::spawn(server);
        let _ = ready.send(());
        if !shutdown::when_told(stops, &host, &executor, &handle).await {
            return Ok(());
        }
        serving.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    });
    // It was to answer until here.
    let controlled = control.map_or(Ok(()), Control::stop);
    // Its runtime cannot end inside another one.
    drop(kept);
    served.and(controlled)
}

#[cfg(test)]
mod tests {
    use super::{HostError, HttpServiceServer, ServerError};
    use crate::{config::Config, linked::Linked};

    #[test]
    fn a_configuration_made_in_code_is_held_to_the_rules() {
        for (host, drain_seconds) in [("0.0.0.0", 1.0), ("127.0.0.1", -1.0)] {
            let mut config = Config::default();
            config.server.host = host.into();
            config.server.port = 0;
            config.server.drain_seconds = drain_seconds;
            let started = HttpServiceServer::builder().config(config).linked(Linked::of([], [])).start();
            assert!(matches!(started, Err(ServerError::Host(HostError::Config(_)))), "{started:?}");
        }
    }
}
