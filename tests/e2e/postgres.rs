//! A PostgreSQL server of the test's own.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use crate::harness::{signal, until};

/// The superuser's password.
const PASSWORD: &str = "super-5c1e77";

/// The server; gone at the end of the test, with its files.
pub(crate) struct Postgres {
    process: Child,
    pub(crate) port: u16,
    programs: PathBuf,
    _folder: Arc<tempfile::TempDir>,
}

impl Postgres {
    /// A server with a database `shop` that these statements have filled.
    pub(crate) fn start(statements: &str) -> Self {
        let programs = programs();
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = folder.path().join("data");
        let password = folder.path().join("password");
        fs::write(&password, PASSWORD).unwrap();
        fs::create_dir(&data).unwrap();
        // The server runs for no superuser of the system.
        let owner = rustix::process::geteuid().is_root().then(owner);
        if let Some((user, group)) = owner {
            chown(folder.path(), Some(user), Some(group)).unwrap();
            chown(&data, Some(user), Some(group)).unwrap();
            chown(&password, Some(user), Some(group)).unwrap();
        }
        let program = |name: &str| {
            let mut command = Command::new(programs.join(name));
            command.current_dir("/").env("LC_ALL", "C.UTF-8").stdout(Stdio::null());
            if let Some((user, group)) = owner {
                command.uid(user).gid(group);
            }
            command
        };
        let pwfile = format!("--pwfile={}", password.display());
        let args =
            ["-D", data.to_str().unwrap(), "-U", "super", "-A", "scram-sha-256", &pwfile, "--no-sync", "-E", "UTF8"];
        assert!(program("initdb").args(args).status().unwrap().success(), "initdb");
        let folder = Arc::new(folder);
        let server = loop {
            // Another may take the port before the server does.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let settings = [
                "fsync=off".to_owned(),
                format!("unix_socket_directories={}", folder.path().display()),
                "listen_addresses=127.0.0.1".to_owned(),
                format!("port={port}"),
                "max_connections=30".to_owned(),
            ];
            let process = program("postgres")
                .arg("-D")
                .arg(&data)
                .args(settings.iter().flat_map(|setting| ["-c", setting]))
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut server = Self { process, port, programs: programs.clone(), _folder: folder.clone() };
            let mut ended = false;
            until("PostgreSQL takes connections, or has ended", || {
                ended = server.process.try_wait().unwrap().is_some();
                ended || server.psql("postgres", "SELECT 1").is_some()
            });
            if !ended {
                break server;
            }
        };
        server.psql("postgres", "CREATE DATABASE shop").unwrap();
        server.psql("shop", statements).unwrap();
        server
    }

    pub(crate) fn url(&self, user: &str, password: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/shop", self.port)
    }

    pub(crate) fn super_url(&self) -> String {
        self.url("super", PASSWORD)
    }

    /// Runs statements as the superuser; what they print, if they succeed.
    pub(crate) fn psql(&self, database: &str, statements: &str) -> Option<String> {
        let mut child = Command::new(self.programs.join("psql"))
            .args(["-h", "127.0.0.1", "-U", "super", "-d", database, "-v", "ON_ERROR_STOP=1", "-X", "-q", "-A", "-t"])
            .args(["-p", &self.port.to_string()])
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have given up already: the server may not be there yet.
        let _ = child.stdin.take().unwrap().write_all(statements.as_bytes());
        let output = child.wait_with_output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // At once, but with its processes.
        if matches!(self.process.try_wait(), Ok(None)) {
            signal(self.process.id(), libc::SIGQUIT);
        }
        let _ = self.process.wait();
    }
}

/// Where the server's programs are: Debian keeps them out of the path.
fn programs() -> PathBuf {
    let has_all = |folder: &Path| ["initdb", "postgres", "psql"].iter().all(|name| folder.join(name).exists());
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.into_iter().find(|folder| has_all(folder)).expect("PostgreSQL, which `scripts/ci` installs")
}

/// The user and group of the server where it may not run for root.
fn owner() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("a user `postgres`");
    let fields: Vec<_> = line.split(':').map(OsStr::new).collect();
    let number = |index: usize| fields[index].to_str().unwrap().parse().unwrap();
    (number(2), number(3))
}
