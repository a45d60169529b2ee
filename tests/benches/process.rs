//! A server under test: this program again, told to serve, until its standard input closes.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use sandbox_runtime::{config::Config, linked::Linked, server::HttpServiceServer};
use serde_json::Value;

/// The server's process, from the client's side.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts this program with `--serve` and a mode.
    pub(crate) fn start(mode: &str, env: &[(&str, &OsStr)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--serve", mode])
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its standard input closes, and it ends; the wait leaves no process behind.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Serves these backends; the first line of the output is the address.
pub(crate) fn serve(config: Value, linked: Linked) {
    let config: Config = serde_json::from_value(config).unwrap();
    let server = HttpServiceServer::builder().config(config).linked(linked).start().unwrap();
    println!("{}", server.address());
    wait_for_end();
    server.stop().unwrap();
}

/// Until standard input closes.
pub(crate) fn wait_for_end() {
    let _ = std::io::stdin().read(&mut [0]);
}
