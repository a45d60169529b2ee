//! The arguments of every command.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

const EXEC_HELP: &str = "\
Examples:
  sandbox exec bash:run command='uname -a; pwd'
  sandbox exec util:echo '{\"message\": \"hello\"}'

Exit codes: 0 the tool succeeded, 1 it failed or was interrupted, 2 it was not run.";

/// Tools for AI agents over HTTP: shells and whatever backends are linked in.
#[derive(Debug, Parser)]
#[command(name = "sandbox", version, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the tools over HTTP until SIGTERM or Ctrl-C.
    Serve(Serve),
    /// Run one tool and print its result.
    Exec(Exec),
    /// List the tools.
    Tools(Tools),
    /// Check a configuration against the linked backends; every fault is reported with its place.
    Check(Check),
    /// List a worker's sessions on a running server.
    Sessions(Sessions),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) config: ConfigFile,
    /// Address to listen on, instead of server.host.
    #[arg(long, value_name = "H")]
    pub(crate) host: Option<String>,
    /// Port to listen on, instead of server.port; 0 takes a free one.
    #[arg(long, value_name = "P")]
    pub(crate) port: Option<u16>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigFile {
    /// Configuration file (JSON, JSON5, TOML or YAML); without one, every linked backend that needs no configuration runs.
    #[arg(long, value_name = "F")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Server {
    /// A running server, such as `http://127.0.0.1:18890`.
    #[arg(id = "server", long = "server", value_name = "URL", env = "SANDBOX_SERVER")]
    pub(crate) url: Option<String>,
    /// Token of the server.
    #[arg(long, value_name = "TOKEN", env = "SANDBOX_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Who calls: sessions belong to a worker.
    #[arg(long, value_name = "W", default_value = "cli")]
    pub(crate) worker: String,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = EXEC_HELP)]
pub(crate) struct Exec {
    /// The tool, such as bash:run.
    pub(crate) action: String,
    /// Its parameters: one JSON object, or key=value pairs (a value is JSON where the parameter is no string).
    #[arg(value_name = "JSON | key=value")]
    pub(crate) params: Vec<String>,
    /// Name of the session; it is made if the worker has none of this name.
    #[arg(long, value_name = "NAME", conflicts_with = "session_id")]
    pub(crate) session: Option<String>,
    /// Id of the session.
    #[arg(long, value_name = "ID", requires = "server")]
    pub(crate) session_id: Option<String>,
    /// Time limit of the call, in seconds.
    #[arg(long, value_name = "S")]
    pub(crate) timeout: Option<f64>,
    /// Print the whole answer as JSON, not only the result.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Tools {
    /// Print them as JSON, schemas included.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) config: ConfigFile,
    /// Print the JSON Schema of the configuration instead.
    #[arg(long)]
    pub(crate) schema: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Sessions {
    /// Print them as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: Server,
}
