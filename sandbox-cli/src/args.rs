//! The arguments of every command.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use sandbox_client::types::RunId;

const EXEC_HELP: &str = "\
Examples:
  sandbox exec bash:run command='uname -a; pwd'
  sandbox exec util:echo '{\"message\": \"hello\"}'

The result goes to standard output. On a terminal, what the tool says while it runs goes to standard error.

Exit codes: 0 the tool succeeded, 1 it failed or was interrupted, 2 it was not run.";

/// Who calls where nobody is named.
pub(crate) const DEFAULT_WORKER: &str = "cli";

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
    /// Start every resource of a configuration once, and say how each fares here and what is missing.
    Doctor(Doctor),
    /// List a worker's sessions on a running server.
    Sessions(Sessions),
    /// Make a crate with a backend, or a tool, that compiles and passes its tests.
    New(New),
    /// Print what completes the command line in a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Look after a worker's runs on a running server: calls that run, and for ten minutes those that ended.
    Runs(Runs),
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
    /// Folder of the clients that the server is started for, to announce itself in; it ends when all of them have gone.
    #[arg(long, value_name = "DIR")]
    pub(crate) lifeline: Option<PathBuf>,
    /// How long it outlives the last client and the last call, in seconds; without it, it does not end by itself.
    #[arg(long, value_name = "S", requires = "lifeline", value_parser = seconds)]
    pub(crate) linger: Option<f64>,
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
    #[arg(id = "server", long = "server", value_name = "URL", env = "SANDBOX_SERVER", global = true)]
    pub(crate) url: Option<String>,
    /// Token of the server.
    #[arg(long, value_name = "TOKEN", env = "SANDBOX_TOKEN", hide_env_values = true, global = true)]
    pub(crate) token: Option<String>,
    /// Who calls: sessions and runs belong to a worker.
    #[arg(long, value_name = "W", default_value = DEFAULT_WORKER, global = true)]
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
    /// Leave it to run to its end on the server, and print the id of the run.
    #[arg(long, conflicts_with_all = ["live", "quiet"])]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) live: Live,
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

/// What is shown of a tool while it runs, on standard error.
#[derive(Debug, ClapArgs)]
pub(crate) struct Live {
    /// Show what the tool says while it runs also where standard error is no terminal.
    #[arg(long)]
    pub(crate) live: bool,
    /// Show only the result.
    #[arg(long, conflicts_with = "live")]
    pub(crate) quiet: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Tools {
    /// Print them as JSON, schemas included.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: Server,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct New {
    #[command(subcommand)]
    pub(crate) command: NewCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NewCommand {
    /// A backend: tools that share state and a lifecycle.
    Backend {
        /// Name of the backend, such as vm or ticket-store.
        name: String,
        /// Which lifecycle it has.
        #[arg(long, value_enum, default_value_t = Kind::Session)]
        kind: Kind,
        #[command(flatten)]
        options: NewOptions,
    },
    /// A tool on its own: a function, with a section of apis as its configuration.
    Tool {
        /// Name of the tool, such as text:count; without a group, tools:NAME.
        name: String,
        #[command(flatten)]
        options: NewOptions,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NewOptions {
    /// Folder to make, instead of the name.
    #[arg(long, value_name = "DIR")]
    pub(crate) path: Option<PathBuf>,
    /// Folder that has sandbox-runtime in it; found where it is around the new crate, or made this program.
    #[arg(long, value_name = "DIR")]
    pub(crate) sandbox: Option<PathBuf>,
    /// Run the tests of the new crate.
    #[arg(long)]
    pub(crate) test: bool,
}

/// The lifecycle of a new backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Each session has state of its own (initialize, cleanup).
    Session,
    /// All calls share one state (warmup, shutdown).
    Shared,
    /// Both.
    Mixed,
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
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) config: ConfigFile,
    /// Print it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Sessions {
    /// Print them as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Runs {
    #[command(subcommand)]
    pub(crate) command: Option<RunsCommand>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: Server,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RunsCommand {
    /// List them, the latest first; so does no command at all.
    List,
    /// Show how far one is, and its answer once it has ended.
    Show {
        #[command(flatten)]
        run: Run,
        /// Wait so long for its end, in seconds.
        #[arg(long, value_name = "S", value_parser = seconds, allow_negative_numbers = true)]
        wait: Option<f64>,
    },
    /// Show what one says while it runs, and its result, as exec does.
    Follow {
        #[command(flatten)]
        run: Run,
        /// Begin after this event; without it, at the beginning.
        #[arg(long, value_name = "EVENT_ID", default_value_t = 0, hide_default_value = true)]
        from: u64,
        #[command(flatten)]
        live: Live,
    },
    /// Ask one to end.
    Cancel {
        #[command(flatten)]
        run: Run,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Run {
    /// Id of the run.
    #[arg(value_name = "ID", value_parser = RunId::parse)]
    pub(crate) id: RunId,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0);
    seconds.ok_or_else(|| "expected a number of seconds, 0 or more".to_owned())
}
