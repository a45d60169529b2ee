//! PID 1 of a sandbox: completes the construction, obeys the server, reaps.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, fchown};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{
    DumpableBehavior, Pid, Signal, WaitOptions, kill_process, kill_process_group, set_child_subreaper,
    set_dumpable_behavior, set_parent_process_death_signal, wait,
};

use super::super::error::Step;
use super::super::places::Places;
use super::super::script;
use super::super::wire::{self, Order, Refusal, Report, Setup, Spec, Target};
use super::policy::{self, Filters};
use super::processes::{Process, processes};
use super::shell::{Identity, Program, Terminal};
use super::syscalls::{child_events, exit, heed_children, own_cgroup_namespace, raise_loopback};
use super::template::{During, Failure, complete, root, seal_settings};

/// Jobs whose sessions are remembered.
const MAX_SESSIONS: usize = 1024;
/// Jobs that may be prepared and not started yet; more of them were given up.
const MAX_PREPARED: usize = 16;
/// How often what a job has started is looked for again after a SIGKILL.
const KILL_ROUNDS: u32 = 10;
/// Where the egress proxy listens inside.
const EGRESS_PORT: u16 = 3128;

/// PID 1 of the sandbox.
pub(super) struct Init<'a> {
    control: &'a OwnedFd,
    setup: &'a Setup,
    spec: Spec,
    places: Places,
    identity: Identity,
    /// Becomes readable when a child ended.
    children: OwnedFd,
    shell: Option<Pid>,
    /// The shell's terminal.
    terminal: Option<Terminal>,
    /// Jobs whose files were made, and which were not started yet; some never are, as when their call is cancelled.
    prepared: VecDeque<u32>,
    jobs: HashMap<Pid, u32>,
    /// The session that each job has led, the latest of them.
    sessions: BTreeMap<u32, Pid>,
}

impl<'a> Init<'a> {
    /// Builds the sandbox and serves until the server is gone.
    pub(super) fn run(
        setup: &'a Setup,
        filters: &Filters,
        spec: Spec,
        control: &'a OwnedFd,
        watch: &OwnedFd,
        joined: Result<(), Failure>,
    ) -> ! {
        let failure = match joined.and_then(|()| Self::build(setup, filters, spec, control, watch)) {
            Ok(init) => {
                let Err(error) = init.serve();
                (Step::ProcessAttributes, error)
            }
            Err(failure) => failure,
        };
        let _ = wire::send(control, &Report::Failed(failure.into()), &[]);
        exit(1)
    }

    fn build(
        setup: &'a Setup,
        filters: &Filters,
        spec: Spec,
        control: &'a OwnedFd,
        watch: &OwnedFd,
    ) -> Result<Self, Failure> {
        heed_children();
        // One byte says that the id maps are written; its absence, that the zygote is gone.
        if rustix::io::read(watch, &mut [0; 1]) != Ok(1) {
            exit(1);
        }
        let places = Places::new(spec.workspace.as_deref().filter(|_| !setup.namespaces));
        let identity = Identity::of(setup, &spec);
        rustix::process::umask(Mode::empty());
        if setup.namespaces {
            identity.become_init().during(Step::Identity)?;
            // After the change of user, which clears it. A zygote that has died before leaves the end of the control
            // socket as the end.
            set_parent_process_death_signal(Some(Signal::KILL)).during(Step::ProcessAttributes)?;
            // Only now, when the group is the one that is to be its root.
            own_cgroup_namespace().during(Step::Namespaces)?;
            complete(setup, &spec)?;
            limit_kernel_objects();
            seal_settings(setup)?;
            rustix::system::sethostname(b"sandbox").during(Step::HostName)?;
            raise_loopback().during(Step::Loopback)?;
        } else {
            // What the shell leaves behind comes here, and dies with it.
            set_child_subreaper(Some(rustix::process::getpid())).during(Step::ProcessAttributes)?;
            places.create(identity.shell_id()).during(Step::WorkFolders)?;
        }
        // After the id map, which could not be written otherwise.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).during(Step::ProcessAttributes)?;
        let children = child_events().during(Step::ProcessAttributes)?;
        let init = Self {
            control,
            setup,
            spec,
            places,
            identity,
            children,
            shell: None,
            terminal: None,
            prepared: VecDeque::new(),
            jobs: HashMap::new(),
            sessions: BTreeMap::new(),
        };
        init.introduce().during(Step::ControlFiles)?;
        policy::confine(setup, &init.places, filters)?;
        Ok(init)
    }

    /// Makes the files of the protocol and hands them to the server.
    fn introduce(&self) -> io::Result<()> {
        for (name, text) in script::constant(&self.places) {
            let mut file = File::options().write(true).create_new(true).mode(0o444).open(self.places.control(name))?;
            file.write_all(text.as_bytes())?;
        }
        self.shell_file(script::SAVED)?;
        let (command, input) = (self.file(script::COMMAND)?, self.file(script::INPUT)?);
        let variables = self.file(script::VARIABLES)?;
        let record = self.fifo(script::RECORD, OFlags::RDWR)?;
        let root = if self.setup.namespaces { root() } else { self.places.base() }?;
        let fds = [&root, &command, &input, &variables, &record].map(AsFd::as_fd);
        wire::send(self.control, &Report::Ready, &fds)
    }

    /// Reaps children and obeys the server.
    fn serve(mut self) -> io::Result<Infallible> {
        loop {
            let mut events = [PollFd::new(self.control, PollFlags::IN), PollFd::new(&self.children, PollFlags::IN)];
            match poll(&mut events, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            let [orders, ended] = [&events[0], &events[1]].map(|event| !event.revents().is_empty());
            if ended {
                let _ = rustix::io::read(&self.children, &mut [0; 1024]);
                self.reap();
            }
            if orders {
                match wire::receive(self.control)? {
                    Some((order, _)) => self.obey(order)?,
                    None => self.end(),
                }
            }
        }
    }

    /// Collects ended children and tells the server about the shell and the jobs.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let signal = status.terminating_signal();
            let code = status.exit_status().or_else(|| signal.map(|signal| 128 + signal)).unwrap_or(1);
            // A server that is gone is noticed by the next poll.
            if self.shell == Some(pid) {
                self.shell = None;
                // A shell that was killed has saved nothing: whatever is there, something else has put there.
                let saved = self.keep_state(signal.is_none());
                let _ = wire::send(self.control, &Report::ShellEnded { code, saved }, &[]);
            } else if let Some(number) = self.jobs.remove(&pid) {
                self.remove_job_files(number);
                let _ = wire::send(self.control, &Report::JobEnded { number, code }, &[]);
            }
        }
    }

    /// Takes the state that the shell saved out of the reach of the next one; says whether it is whole.
    fn keep_state(&self, ended_by_itself: bool) -> bool {
        let (saved, kept) = (self.places.control(script::SAVED), self.places.control(script::KEPT));
        let whole = ended_by_itself && fs::read(&saved).is_ok_and(|state| state.ends_with(script::WHOLE.as_bytes()));
        // What is not whole is nothing: half a state would be worse.
        let kept = if whole { fs::rename(&saved, kept) } else { fs::remove_file(kept) };
        let _ = fs::remove_file(&saved);
        self.shell_file(script::SAVED).is_ok() && whole && kept.is_ok()
    }

    /// Carries out one order.
    fn obey(&mut self, order: Order) -> io::Result<()> {
        match order {
            Order::Shell { cwd } => match self.start_shell(&cwd) {
                Ok((input, master)) => self.report(&Report::Shell, &[input.as_fd(), master.as_fd()]),
                Err(failure) => self.report(&Report::Failed(Refusal::from(failure)), &[]),
            },
            Order::Slot(number) => match self.make_slot(number) {
                Ok([out, err]) => self.report(&Report::Slot, &[out.as_fd(), err.as_fd()]),
                Err(error) => self.report(&Report::Failed((Step::ControlFiles, error).into()), &[]),
            },
            Order::JobFiles(number) => {
                self.prepared.push_back(number);
                if self.prepared.len() > MAX_PREPARED
                    && let Some(oldest) = self.prepared.pop_front()
                {
                    self.remove_job_files(oldest);
                }
                let made = self.shell_file(&script::job_state(number));
                let record = made.and_then(|()| self.fifo(&script::job_record(number), OFlags::RDWR));
                match record.and_then(|record| Ok((self.file(&script::job_command(number))?, record))) {
                    Ok((command, record)) => self.report(&Report::JobFiles, &[command.as_fd(), record.as_fd()]),
                    Err(error) => self.report(&Report::Failed((Step::ControlFiles, error).into()), &[]),
                }
            }
            Order::Job { number, line, terminal } => match self.start_job(number, &line, terminal) {
                Ok(fds) => self.report(&Report::Job, &fds.iter().map(AsFd::as_fd).collect::<Vec<_>>()),
                Err(failure) => {
                    self.remove_job_files(number);
                    self.report(&Report::Failed(failure.into()), &[])
                }
            },
            Order::Signal { to, signal } => {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    self.signal(to, signal);
                }
                Ok(())
            }
            Order::Egress => match self.listen_for_egress() {
                Ok(listener) => self.report(&Report::Egress, &[listener.as_fd()]),
                Err(error) => self.report(&Report::Failed((Step::Egress, error).into()), &[]),
            },
            Order::End => self.end(),
        }
    }

    fn report(&self, report: &Report, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        wire::send(self.control, report, fds)
    }

    /// A file of the protocol that the shell can read.
    fn file(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(CWD, self.places.control(name), flags, Mode::from_raw_mode(0o644))?)
    }

    /// A file of the protocol that the shell can write.
    fn shell_file(&self, name: &str) -> io::Result<()> {
        let file = File::options().write(true).create_new(true).mode(0o644).open(self.places.control(name))?;
        match self.identity.shell_id() {
            Some(id) => fchown(&file, Some(id), Some(id)),
            None => Ok(()),
        }
    }

    /// Creates one fifo and opens it.
    fn fifo(&self, name: &str, access: OFlags) -> io::Result<OwnedFd> {
        let path = self.places.control(name);
        // Written by another user than the one who reads it, so that a command cannot swallow its own record.
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o622), 0)?;
        Ok(rustix::fs::open(&path, access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?)
    }

    /// The output fifos of this number.
    fn make_slot(&self, number: u32) -> io::Result<[OwnedFd; 2]> {
        if let Some(before) = number.checked_sub(1) {
            for name in script::slot(before) {
                let _ = fs::remove_file(self.places.control(&name));
            }
        }
        let [out, err] = script::slot(number).map(|name| self.fifo(&name, OFlags::RDONLY));
        Ok([out?, err?])
    }

    fn remove_job_files(&self, number: u32) {
        for name in [script::job_state(number), script::job_command(number), script::job_record(number)] {
            let _ = fs::remove_file(self.places.control(&name));
        }
    }

    /// Starts a shell in `cwd` and answers the pipe for its input and the master side of its terminal.
    fn start_shell(&mut self, cwd: &str) -> Result<(OwnedFd, OwnedFd), Failure> {
        let terminal = Terminal::open(self.identity).during(Step::Terminal)?;
        let master = terminal.master().during(Step::Terminal)?;
        let (input, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(Step::ShellStreams)?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let null = null.during(Step::ShellStreams)?;
        // Interactive, so that interrupts and errors jump to the top level instead of ending the shell.
        let arguments = ["bash", "--norc", "--noprofile", "--noediting", "-i"];
        let program = Program {
            arguments: &arguments.map(String::from),
            streams: [&input, &null, &null],
            terminal: Some(&terminal),
            cwd,
        };
        let pid = program.start(self.setup, &self.spec, &self.places, self.identity)?;
        self.shell = Some(pid);
        self.terminal = Some(terminal);
        Ok((writer, master))
    }

    /// Starts a job; answers its input, output and error pipes, or the master side of its terminal.
    fn start_job(&mut self, number: u32, line: &str, size: Option<(u16, u16)>) -> Result<Vec<OwnedFd>, Failure> {
        let arguments = ["bash", "--norc", "--noprofile", "-c", line, "bash"].map(String::from);
        let start = |streams, terminal| {
            let program = Program { arguments: &arguments, streams, terminal, cwd: self.places.workspace() };
            program.start(self.setup, &self.spec, &self.places, self.identity)
        };
        let (pid, ends) = match size {
            Some(size) => {
                let terminal = Terminal::open(self.identity).during(Step::Terminal)?;
                terminal.resize(size).during(Step::Terminal)?;
                let pid = start([terminal.slave(); 3], Some(&terminal))?;
                (pid, vec![terminal.master().during(Step::Terminal)?])
            }
            None => {
                let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(Step::ShellStreams);
                let [(input, writer), (out_reader, out), (err_reader, err)] = [pipe()?, pipe()?, pipe()?];
                (start([&input, &out, &err], None)?, vec![writer, out_reader, err_reader])
            }
        };
        self.prepared.retain(|prepared| *prepared != number);
        self.jobs.insert(pid, number);
        self.sessions.insert(number, pid);
        if self.sessions.len() > MAX_SESSIONS {
            self.sessions.pop_first();
        }
        Ok(ends)
    }

    /// The socket on which the sandbox's own loopback interface reaches the egress proxy.
    fn listen_for_egress(&self) -> io::Result<OwnedFd> {
        if !self.setup.namespaces {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let listener = std::net::TcpListener::bind(("127.0.0.1", EGRESS_PORT))?;
        Ok(listener.into())
    }

    /// Every failure means that the processes are gone already.
    fn signal(&self, to: Target, signal: Signal) {
        let foreground = || self.terminal.as_ref().and_then(Terminal::foreground).or(self.shell);
        match to {
            Target::Foreground => {
                if let (Some(group), Some(_)) = (foreground(), self.shell) {
                    let _ = kill_process_group(group, signal);
                    // A stopped process would see it only later.
                    let _ = kill_process_group(group, Signal::CONT);
                }
            }
            Target::Descendants => {
                if let Some(shell) = self.shell {
                    if let Some(group) = foreground().filter(|group| *group != shell) {
                        let _ = kill_process_group(group, signal);
                    }
                    // Every shell and every job leads a session of its own.
                    for process in processes().filter(|process| process.id != shell && process.session == Some(shell)) {
                        let _ = kill_process(process.id, signal);
                    }
                }
            }
            Target::Shell => {
                if let Some(shell) = self.shell {
                    let _ = kill_process_group(shell, signal);
                    let _ = kill_process(shell, signal);
                }
            }
            Target::Job(number) => {
                let Some(leader) = self.sessions.get(&number).copied() else { return };
                // Of a job that has ended what it started may live; its number is not given to another as long as that
                // does, and afterwards it may be.
                let runs = self.jobs.get(&leader) == Some(&number);
                if runs || (self.shell != Some(leader) && !self.jobs.contains_key(&leader)) {
                    signal_job(leader, runs, signal);
                }
            }
        }
    }

    /// Ends the sandbox. PID 1 of a namespace takes everything with it; without one, everything is hunted down.
    fn end(&self) -> ! {
        if !self.setup.namespaces {
            // What forks as fast as it is hunted runs into its limit of processes. What is orphaned comes to this process,
            // so that nothing is left when it has no child.
            loop {
                self.identity.kill_all();
                match wait(WaitOptions::NOHANG) {
                    Err(_) => break,
                    Ok(None) => std::thread::sleep(std::time::Duration::from_millis(1)),
                    Ok(Some(_)) => {}
                }
            }
        }
        exit(0)
    }
}

/// Sends a signal to what a job runs, once to each: to its session, and, if it is to end, to what its leader has started,
/// whatever session that has made for itself.
fn signal_job(leader: Pid, runs: bool, signal: Signal) {
    let ends = matches!(signal, Signal::KILL | Signal::TERM);
    for _ in 0..if signal == Signal::KILL { KILL_ROUNDS } else { 1 } {
        let all: Vec<_> = processes().collect();
        let mut family = HashSet::from([leader]);
        // Children may come before their parents.
        loop {
            let is_new = |process: &&Process| {
                process.parent.is_some_and(|parent| family.contains(&parent)) && !family.contains(&process.id)
            };
            let children: Vec<_> = all.iter().filter(is_new).map(|process| process.id).collect();
            if children.is_empty() || !(ends && runs) {
                break;
            }
            family.extend(children);
        }
        if runs {
            // At once, so that none of it sees the end of another.
            let _ = kill_process_group(leader, signal);
        }
        let others = all.iter().filter(|process| {
            (process.session == Some(leader) || family.contains(&process.id))
                && !(runs && process.group == Some(leader))
        });
        // What has been started meanwhile is met the next time.
        if others.filter(|process| kill_process(process.id, signal).is_ok()).count() == 0 {
            break;
        }
    }
}

/// Limits what is otherwise counted for all sandboxes together, and for the host's root: without it, one of them could
/// use up the share of everybody. And no namespace can be made below this one, whatever the system call filter thinks.
fn limit_kernel_objects() {
    for (name, most) in [
        ("max_inotify_instances", 64),
        ("max_inotify_watches", 16_384),
        ("max_fanotify_groups", 0),
        ("max_user_namespaces", 0),
        ("max_pid_namespaces", 0),
        ("max_net_namespaces", 0),
        ("max_mnt_namespaces", 0),
        ("max_ipc_namespaces", 0),
        ("max_uts_namespaces", 0),
        ("max_cgroup_namespaces", 0),
        ("max_time_namespaces", 0),
    ] {
        // Without a `/proc`, or in an older kernel, the other walls are what there is.
        let _ = fs::write(format!("/proc/sys/user/{name}"), most.to_string());
    }
    for buffers in ["tcp_rmem", "tcp_wmem"] {
        // Version 1 of control groups does not count them.
        let _ = fs::write(format!("/proc/sys/net/ipv4/{buffers}"), "4096 32768 131072");
    }
}

/// A C string of an argument or a variable.
pub(super) fn c_string(text: impl Into<Vec<u8>>) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}
