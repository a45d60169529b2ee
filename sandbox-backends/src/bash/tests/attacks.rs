//! Attacks, run for real: what a hostile command tries, and the wall that stops it. Each prints `HELD`, or what it got.

use super::super::tier::Isolation;
use super::*;

/// One attack.
struct Attack {
    name: &'static str,
    /// What stops it.
    wall: &'static str,
    /// Python, with `call(number, ..)` for a system call and `held(condition)` for the verdict.
    code: &'static str,
    /// The tiers that cannot stop it, and the word by which they say so.
    open: &'static [(Tier, &'static str)],
}

/// Every tier that has namespaces stops it.
const NAMESPACES: &[(Tier, &str)] = &[(Tier::D, "namespaces")];
/// Every tier stops it.
const NEVER: &[(Tier, &str)] = &[];

const HELPERS: &str = r"
import ctypes, errno, os, platform, resource, signal, socket, struct, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == 'x86_64'
PROC = os.access('/proc/self/status', os.R_OK)
try: open('/proc/self/status').close()
except OSError: PROC = False
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return result, ctypes.get_errno()
def refused(number, *arguments, by=(errno.EPERM, errno.ENOSYS)):
    result, error = call(number, *arguments)
    return result == -1 and error in by
def held(condition, *what):
    print('HELD' if condition else 'OPEN %r' % (what,))
def fails(work, *by):
    try:
        got = work()
    except OSError as error:
        return not by or error.errno in by
    return False
";

#[rustfmt::skip]
const ATTACKS: &[Attack] = &[
    Attack { name: "4 the environment, memory, descriptors, root of PID 1", wall: "another user and PR_SET_DUMPABLE 0", open: &[(Tier::C, "/proc"), (Tier::D, "/proc")],
        code: "held(all(fails(lambda f=f: open('/proc/1/' + f, 'rb').read(1)) for f in ('environ', 'mem', 'maps')) and all(fails(lambda d=d: os.listdir('/proc/1/' + d)) for d in ('root', 'cwd')) and all(fails(lambda n=n: os.readlink(f'/proc/1/fd/{n}')) for n in range(8)))" },
    Attack { name: "5 processes of the host", wall: "pid namespace and a proc of its own", open: NAMESPACES,
        code: "held(len([p for p in os.listdir('/proc') if p.isdigit()]) < 12)" },
    Attack { name: "6 writing kernel settings", wall: "user namespace; landlock", open: NEVER,
        code: "held(all(fails(lambda f=f: open(f, 'w').write('x')) for f in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/sys/kernel/modprobe', '/proc/sys/vm/overcommit_memory')))" },
    Attack { name: "6 more kernel objects than the sandbox may have", wall: "limits of its user namespace", open: &[(Tier::C, "/proc"), (Tier::D, "/proc")],
        code: "held(all(int(open('/proc/sys/user/max_' + name).read()) == limit for name, limit in (('user_namespaces', 0), ('net_namespaces', 0), ('inotify_instances', 64))))" },
    Attack { name: "7 /sys", wall: "not mounted; landlock", open: NEVER,
        code: "held(fails(lambda: os.listdir('/sys/kernel')) and fails(lambda: open('/sys/kernel/uevent_helper', 'w')))" },
    Attack { name: "8 tracing and reading other processes", wall: "system call filter", open: NEVER,
        code: "held(refused(101 if X86 else 117, 0, 0, 0, 0) and refused(310 if X86 else 270, os.getppid(), 0, 0, 0, 0, 0) and refused(311 if X86 else 271, 1, 0, 0, 0, 0, 0) and refused(438, 0, 0, 0) and refused(312 if X86 else 272, 1, 1, 0, 0, 0))" },
    Attack { name: "9 killing PID 1, or what is outside", wall: "pid namespace, another user, landlock's scope", open: NEVER,
        code: "for n in (9, signal.SIGSTOP, signal.SIGTERM):\n    try: os.kill(INIT, n)\n    except OSError: pass\ntime.sleep(0.1)\nheld((INIT == 1 or fails(lambda: os.kill(INIT, 0))) and (INIT == 1 or fails(lambda: os.kill(1, 0))))" },
    Attack { name: "10 mounts and roots", wall: "no capability; system call filter", open: NEVER,
        code: "held(all(refused(n, 0, 0, 0, 0, 0) for n in ((165, 166, 155, 161) if X86 else (40, 39, 41, 51))) and all(refused(n, 0, 0, 0, 0) for n in (428, 429, 430, 431, 432, 433, 442, 467)))" },
    Attack { name: "11 a new namespace, by each way", wall: "system call filter", open: NEVER,
        code: "held(refused(272 if X86 else 97, 0x10000000) and refused(56 if X86 else 220, 0x10000000 | 17, 0, 0, 0, 0) and refused(435, ctypes.create_string_buffer(88), 88) and refused(308 if X86 else 268, 0, 0))" },
    Attack { name: "12 raw, packet, vsock, kernel crypto, bluetooth sockets", wall: "system call filter", open: NEVER,
        code: "held(all(fails(lambda a=a: socket.socket(*a), errno.EPERM) for a in ((2, 3, 1), (10, 3, 58), (17, 3, 0), (40, 1, 0), (38, 5, 0), (31, 3, 0))))" },
    Attack { name: "13 the host's loopback, the metadata service, the internet", wall: "network namespace; without one the system call filter", open: NEVER,
        code: "def reach(a):\n    s = socket.socket(); s.settimeout(2); s.connect(a)\nheld(all(fails(lambda a=a: reach(a)) for a in (('127.0.0.1', 22), ('127.0.0.1', HOST_PORT), ('169.254.169.254', 80), ('8.8.8.8', 53))))" },
    Attack { name: "14 abstract sockets of the host", wall: "network namespace; landlock's scope", open: NEVER,
        code: "def reach():\n    s = socket.socket(socket.AF_UNIX); s.connect('\\0' + HOST_ABSTRACT)\nheld(fails(reach))" },
    Attack { name: "15 variables of the server", wall: "the zygote's empty environment", open: NEVER,
        code: "found = ''\nfor p in (os.listdir('/proc') if PROC else []):\n    try: found += open(f'/proc/{p}/environ', errors='replace').read()\n    except OSError: pass\nheld('CANARY' not in found and not any('CANARY' in k for k in os.environ))" },
    Attack { name: "18 a hard link to a program with setuid", wall: "another file system, read-only; landlock", open: NEVER,
        code: "held(fails(lambda: os.link('/bin/su', os.environ['HOME'] + '/su')) and fails(lambda: os.link('/bin/mount', os.environ['TMPDIR'] + '/m')))" },
    Attack { name: "19 programs with setuid", wall: "no_new_privs and nosuid", open: NEVER,
        code: "import shutil\np = os.environ['HOME'] + '/id'\nshutil.copy('/usr/bin/id', p); os.chmod(p, 0o4755)\nheld(subprocess.run([p, '-u'], capture_output=True, text=True).stdout.strip() == str(os.getuid()) and 'NoNewPrivs:\\t1' in open('/proc/self/status').read() if PROC else libc.prctl(39, 0, 0, 0, 0) == 1)" },
    Attack { name: "20 keys, programs in the kernel, tracing, modules, the clock, handles", wall: "system call filter", open: NEVER,
        code: "calls = (248, 249, 250, 321, 298, 323, 246, 320, 175, 313, 176, 169, 103, 164, 227, 305, 304, 303, 300, 167, 168, 163, 159, 179) if X86 else (217, 218, 219, 280, 241, 282, 104, 105, 273, 106, 142, 116, 170, 112)\nheld(all(refused(n, 0, 0, 0, 0, 0, by=(errno.EPERM,)) for n in calls), [n for n in calls if not refused(n, 0, 0, 0, 0, 0, by=(errno.EPERM,))])" },
    Attack { name: "21 io_uring", wall: "system call filter", open: NEVER,
        code: "held(all(refused(n, 1, 0, 0, 0, by=(errno.ENOSYS,)) for n in (425, 426, 427)))" },
    Attack { name: "22 calls of x32 and of other numbers", wall: "system call filter", open: NEVER,
        code: "held(all(refused(n, 0, 0, 0, by=(errno.ENOSYS,)) for n in (0x40000027, 0x40000000 + 101, 600, 100000)))" },
    Attack { name: "23 turning address randomisation off", wall: "system call filter", open: NEVER,
        code: "held(refused(135 if X86 else 92, 0x0040000) and refused(135 if X86 else 92, 0x0400000))" },
    Attack { name: "24 device nodes", wall: "no capability, nodev; landlock", open: NEVER,
        code: "held(fails(lambda: os.mknod(os.environ['TMPDIR'] + '/d', 0o600 | 0o020000, os.makedev(1, 1))) and all(fails(lambda d=d: open(d)) for d in ('/dev/mem', '/dev/kmsg', '/dev/sda', '/dev/vda', '/dev/kvm', '/dev/fuse')))" },
    Attack { name: "25 typing into a terminal", wall: "system call filter", open: NEVER,
        code: "import fcntl, pty, termios\ntry: m, s = pty.openpty()\nexcept OSError: s = 0\nheld(s == 0 or fails(lambda: fcntl.ioctl(s, termios.TIOCSTI, b'x'), errno.EPERM) and fails(lambda: fcntl.ioctl(s, 0x541C, b'\\3'), errno.EPERM))" },
    Attack { name: "26 core dumps", wall: "RLIMIT_CORE", open: NEVER,
        code: "held(resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) and not os.WCOREDUMP(os.system('kill -SEGV $$')))" },
    Attack { name: "27 priority, real-time scheduling, higher limits", wall: "no capability", open: NEVER,
        code: "def higher(): resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))\ndef raised():\n    try: higher()\n    except ValueError: return False\n    return True\nheld(fails(lambda: os.setpriority(0, 0, -5)) and fails(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))) and not raised())" },
    Attack { name: "28 descriptors of the server", wall: "close_range before every execution", open: &[(Tier::C, "/proc"), (Tier::D, "/proc")],
        code: "held(set(os.listdir('/proc/self/fd')) <= {'0', '1', '2', '3'}, os.listdir('/proc/self/fd'))" },
    Attack { name: "33 the protocol's files", wall: "owned by PID 1, another user", open: NEVER,
        code: "c = CONTROL\nheld(MINE or (fails(lambda: os.listdir(c)) and all(fails(lambda f=f: open(c + '/' + f, 'w')) for f in ('q', 'p', 'x', 'c', 'v')) and fails(lambda: os.remove(c + '/r')) and fails(lambda: os.rename(c, c + '2'))))" },
    Attack { name: "34 what the kernel says of the machine", wall: "not root; a mask", open: &[(Tier::C, "/proc"), (Tier::D, "/proc")],
        code: "symbols = open('/proc/kallsyms').read(4000)\nheld(open('/proc/cmdline').read() == '' and all(line.startswith('0000000000000000') for line in symbols.splitlines()[:-1]) and fails(lambda: open('/proc/kcore', 'rb').read(1)) and fails(lambda: open('/proc/kmsg').read(1)))" },
    Attack { name: "36 shared memory without end", wall: "ipc namespace; sized /dev/shm", open: NAMESPACES,
        code: "def fill():\n    with open('/dev/shm/f', 'wb') as f:\n        for _ in range(1000): f.write(bytes(1 << 20))\nheld(fails(fill, errno.ENOSPC))" },
    Attack { name: "37 netlink: the network, and queues that are counted for nobody", wall: "system call filter", open: NEVER,
        code: "held(all(fails(lambda p=p: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, p), errno.EPERM) for p in (0, 2, 16)))" },
    Attack { name: "38 names resolved for the sandbox", wall: "no network", open: NEVER,
        code: "def ask():\n    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2); s.sendto(b'x' * 30, ('8.8.8.8', 53)); s.recv(10)\nheld(fails(ask) and fails(lambda: socket.getaddrinfo('example.com', 80)))" },
    Attack { name: "39 faults handled by the attacker", wall: "system call filter; not in /dev", open: NEVER,
        code: "held(refused(323 if X86 else 282, 0) and fails(lambda: open('/dev/userfaultfd')))" },
    Attack { name: "40 advice to the memory of others", wall: "system call filter", open: NEVER,
        code: "held(refused(440, 0, 0, 0, 0, 0) and refused(279 if X86 else 239, 1, 0, 0, 0, 0, 0) and refused(256 if X86 else 238, 1, 0, 0, 0))" },
    Attack { name: "41 file handles", wall: "system call filter", open: NEVER,
        code: "held(refused(303 if X86 else 264, -100, b'/', 0, 0, 0) and refused(304 if X86 else 265, -100, 0, 0))" },
    Attack { name: "42 watching a file system", wall: "system call filter", open: NEVER,
        code: "held(refused(300 if X86 else 262, 0, 0) and refused(301 if X86 else 263, 0, 0, 0, 0, 0))" },
    Attack { name: "43 leaving the control group", wall: "cgroup namespace, not mounted; landlock", open: NEVER,
        code: "held(fails(lambda: os.listdir('/sys/fs/cgroup')) and fails(lambda: open('/proc/self/cgroup', 'w').write('0')) and (not PROC or all(l.endswith(':/\\n') or not l.strip() for l in open('/proc/self/cgroup'))), open('/proc/self/cgroup').read() if PROC else '')" },
    Attack { name: "44 becoming another user", wall: "no capability, no id mapped", open: NEVER,
        code: "held(os.getuid() == 0 or fails(lambda: os.setuid(0)) and fails(lambda: os.setgid(0)) and fails(lambda: os.setgroups([0])) and fails(lambda: os.setresuid(0, 0, 0)) and fails(lambda: os.chown(os.environ['HOME'], 0, 0)))" },
    Attack { name: "45 taking capabilities", wall: "empty bounding set", open: NEVER,
        code: "header = struct.pack('II', 0x20080522, 0); data = struct.pack('IIIIII', 0xffffffff, 0xffffffff, 0, 0xffffffff, 0xffffffff, 0)\nheld(refused(126 if X86 else 91, header, data) and all(libc.prctl(23, n, 0, 0, 0) != 1 for n in range(41)))" },
    Attack { name: "46 loosening the filter", wall: "filters only add up", open: NEVER,
        code: "program = struct.pack('HBBI', 6, 0, 0, 0x7fff0000); buffer = ctypes.create_string_buffer(program)\nclass P(ctypes.Structure): _fields_ = [('n', ctypes.c_ushort), ('p', ctypes.c_void_p)]\np = P(1, ctypes.addressof(buffer)); libc.prctl(22, 2, ctypes.byref(p), 0, 0)\nheld(refused(425, 1, 0) and refused(101 if X86 else 117, 0, 0, 0, 0))" },
    Attack { name: "47 shared memory of the host", wall: "ipc namespace", open: NAMESPACES,
        code: "held(libc.shmget(HOST_SHM_KEY, 0, 0) == -1 and ctypes.get_errno() == errno.ENOENT)" },
    Attack { name: "48 the program of the server", wall: "not in the root; /proc/1/exe unreadable", open: &[(Tier::D, "namespaces")],
        code: "held(fails(lambda: open('/proc/1/exe', 'rb').read(4)) and fails(lambda: os.readlink('/proc/1/exe')))" },
    Attack { name: "49 files of the host", wall: "a root of its own; landlock", open: NEVER,
        code: "held(all(fails(lambda f=f: open(f)) for f in ('/etc/shadow', '/root/.bashrc', '/var/log/dpkg.log', HOST_FILE)) and fails(lambda: open('/usr/x', 'w')))\ntry: open(HOST_FILE, 'w').write('overwritten')\nexcept OSError: pass" },
    Attack { name: "50 locking all memory", wall: "RLIMIT_MEMLOCK", open: NEVER,
        code: "held(resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] <= 8 << 20)" },
    Attack { name: "51 programs for sockets", wall: "system call filter", open: NEVER,
        code: "a, b = socket.socketpair()\nheld(all(fails(lambda n=n: a.setsockopt(socket.SOL_SOCKET, n, bytes(16)), errno.EPERM) for n in (26, 50, 51, 52)))" },
    Attack { name: "52 another discipline of a terminal", wall: "system call filter", open: NEVER,
        code: "import fcntl, pty\ntry: m, s = pty.openpty()\nexcept OSError: s = 0\nheld(s == 0 or fails(lambda: fcntl.ioctl(s, 0x5423, struct.pack('i', 27)), errno.EPERM))" },
];

/// A segment of System V shared memory on the host.
struct SharedMemory(u32);

impl SharedMemory {
    fn new() -> Self {
        let this = Self(0x5b00_0000 + std::process::id());
        // 0666, made exclusively.
        this.python("sys.exit(libc.shmget(key, 4096, 0o3666) == -1)");
        this
    }

    fn python(&self, code: &str) {
        let code = format!("import ctypes, sys\nlibc = ctypes.CDLL(None)\nkey = {}\n{code}", self.0);
        let done = std::process::Command::new("/usr/bin/python3").args(["-c", &code]).status().unwrap();
        assert!(done.success());
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        self.python("libc.shmctl(libc.shmget(key, 0, 0), 0, None)");
    }
}

/// Runs the catalogue in one sandbox of the pool.
async fn run_catalogue(pool: &Pool, isolation: &Isolation) {
    let (host_abstract, host_file) =
        (format!("attack-{}", std::process::id()), tempfile::NamedTempFile::new().unwrap());
    fs::set_permissions(host_file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let _listener = {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&host_abstract).unwrap();
        std::os::unix::net::UnixListener::bind_addr(&address).unwrap()
    };
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let shared = SharedMemory::new();
    let said = format!("{isolation:?}");
    let mut shell = pool.make(None).await.unwrap();
    let control = shell.sandbox.places().control_folder().to_owned();
    // Without a second id the protocol's files are the shell's own: it can only deceive itself.
    let mine = sh(&mut shell, &format!("[ -O {control} ]")).await.exit_code == 0;
    let constants = format!(
        "HOST_SHM_KEY = {}\nHOST_PORT = {}\nHOST_ABSTRACT = {host_abstract:?}\nHOST_FILE = {:?}\nCONTROL = {control:?}\nMINE = {}\n",
        shared.0,
        tcp.local_addr().unwrap().port(),
        host_file.path().display().to_string(),
        if mine { "True" } else { "False" },
    );
    let init: u32 = stdout(&mut shell, "echo $PPID").await.trim().parse().unwrap();
    let constants = format!("{constants}INIT = {init}\n");
    let mut failed = Vec::new();
    for Attack { name, wall, code, open } in ATTACKS {
        if let Some((_, word)) = open.iter().find(|(tier, _)| *tier == isolation.tier) {
            assert!(said.contains(word), "{name} is open, and the tier does not say so by {word:?}: {said}");
            continue;
        }
        let command = format!("/usr/bin/python3 - <<'ATTACK'\n{HELPERS}{constants}{code}\nATTACK");
        let outcome = sh(&mut shell, &command).await;
        if outcome.stdout.text.lines().last() != Some("HELD") {
            failed.push(format!("{name} ({wall}): {} {}", outcome.stdout.text, outcome.stderr.text));
        }
        assert!(!outcome.shell_restarted, "{name} took the shell with it");
    }
    assert_eq!(fs::metadata(host_file.path()).unwrap().len(), 0, "a file of the host was written");
    assert!(failed.is_empty(), "in tier {:?}:\n{}", isolation.tier, failed.join("\n"));
    shell.sandbox.close().await.unwrap();
}

#[tokio::test]
async fn the_catalogue_is_held_here() {
    let (pool, isolation) = tier::find(&BashConfig::default()).await.unwrap();
    run_catalogue(&pool, &isolation).await;
}

/// Which lower tier a child of this test is to find.
const TIER: &str = "SANDBOX_TEST_TIER";

/// Runs this program's `lower_tiers` again behind a command that takes something away from it.
fn in_tier(tier: &str, command: &[&str]) {
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new(command[0])
        .args(&command[1..])
        .arg(program)
        .args(["--exact", "--nocapture", "bash::tests::attacks::the_catalogue_is_held_in_lower_tiers"])
        .env(TIER, tier)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains(&format!("found tier {tier}")), "tier {tier}: {text}");
}

#[test]
fn the_catalogue_is_held_in_lower_tiers() {
    if let Ok(tier) = std::env::var(TIER) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        return runtime.block_on(async {
            let (pool, isolation) = tier::find(&BashConfig::default()).await.unwrap();
            println!("found tier {:?}", isolation.tier);
            assert_eq!(format!("{:?}", isolation.tier), tier, "{isolation:?}");
            run_catalogue(&pool, &isolation).await;
        });
    }
    // Without a control group to write to: as an ordinary user.
    in_tier("B", &["unshare", "-U", "--map-user=1234", "--map-group=1234"]);
    // As in a container: a part of /proc is hidden.
    let masked = "mount --bind /dev/null /proc/kmsg && exec \"$0\" \"$@\"";
    in_tier("C", &["unshare", "-Urm", "sh", "-c", masked]);
    // As in one that forbids namespaces.
    let forbidden = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    if landlock_version() >= 6 {
        in_tier("D", &["unshare", "-Ur", "sh", "-c", forbidden]);
    }
}

/// Fills the queues of many UDP sockets, and prints how many bytes they took.
const QUEUES: &str = r#"
import socket
sockets = []
for _ in range(60):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    s.bind(("127.0.0.1", 0))
    s.setblocking(False)
    for _ in range(200): s.sendto(bytes(50000), s.getsockname())
    sockets.append(s)
queued = 0
for s in sockets:
    try:
        while True: queued += len(s.recv(65536))
    except OSError: pass
print(queued)
"#;

#[tokio::test]
async fn floods_do_not_take_the_session() {
    let config = BashConfig { workspace_mib: 16, tmp_mib: 8, pids: 60, memory_mib: Some(256), ..BashConfig::default() };
    let (pool, isolation) = tier::find(&config).await.unwrap();
    let mut shell = pool.make(config.memory_mib).await.unwrap();
    // 1: processes.
    let bomb = sh_for(&mut shell, "b() { b | b & }; b; sleep 1", Duration::from_secs(20)).await;
    assert!(bomb.stderr.text.contains("fork") || bomb.exit_code != 0 || bomb.timed_out, "{bomb:?}");
    // The shell itself, too.
    sh_for(&mut shell, "kill -9 -1", Duration::from_secs(20)).await;
    let alive = sh_for(&mut shell, "echo alive", Duration::from_secs(20)).await;
    assert_eq!(alive.stdout.text, "alive\n", "{alive:?}");
    // 2: memory.
    let bomb = sh(&mut shell, "/usr/bin/python3 -c 'x = bytearray(2 << 30); print(len(x))'").await;
    assert!([1, 137].contains(&bomb.exit_code) && bomb.stdout.text.is_empty(), "{bomb:?}");
    if isolation.tier == Tier::A {
        // Of all processes together, and by files that no folder limits.
        let memfd = "import os\nf = os.memfd_create('x')\nwhile True: os.write(f, bytes(1 << 20))";
        let code = sh(&mut shell, &format!("/usr/bin/python3 -c '{memfd}'")).await.exit_code;
        assert!([1, 137].contains(&code), "{code}");
        // And what waits in sockets.
        let outcome = sh(&mut shell, &format!("/usr/bin/python3 -c '{QUEUES}'")).await;
        let queued: u64 = outcome.stdout.text.trim().parse().unwrap_or(0);
        assert!(outcome.exit_code == 137 || (1 << 20..200 << 20).contains(&queued), "{outcome:?}");
    }
    // 3: bytes and names.
    let filled =
        sh(&mut shell, "head -c 100M /dev/zero > /workspace/f; stat -c %s /workspace/f; rm /workspace/f").await;
    assert_eq!(filled.stdout.text, "16777216\n");
    let names = "mkdir /tmp/n; cd /tmp/n; i=0; while : > $i; do i=$((i+1)); done 2>/dev/null; [ $i -lt 5000 ] && echo full; cd /; rm -r /tmp/n";
    assert_eq!(sh(&mut shell, names).await.stdout.text, "full\n");
    // 32: orphans without end.
    let orphans = "i=0; while [ $i -lt 10000 ]; do ( : & ); i=$((i+1)); done; sleep 0.5; ls -d /proc/[0-9]* | wc -l";
    let count: u32 = sh_for(&mut shell, orphans, LONG * 3).await.stdout.text.trim().parse().unwrap();
    assert!(count < 10, "{count} processes are left");
    // The records and the terminal, full of nonsense.
    let noise = "(yes > /.sbx/r) & n=$!; (yes > /dev/tty) & m=$!; sleep 0.3; kill $n $m; echo through";
    assert!(sh(&mut shell, noise).await.stdout.text.contains("through"));
    // The record comes through a flood of output, and output through a flood of records.
    let began = Instant::now();
    let flooded = sh(&mut shell, "yes & sleep 0.1; echo done").await;
    assert!(flooded.job.is_some() && flooded.exit_code == 0, "{flooded:?}");
    let large =
        "yes > /.sbx/r & y=$!; head -c 1000000 /dev/zero | tr '\\0' x | wc -c; head -c 1000000 /dev/zero; kill $y";
    assert_eq!(sh(&mut shell, large).await.stdout.total_bytes, 1_000_008);
    assert!(began.elapsed() < LONG / 2, "waited for a limit");
    // Records as packets, which are read one by one.
    let packets = "import fcntl, os\nf = os.open('/.sbx/r', os.O_WRONLY)\nfcntl.fcntl(f, fcntl.F_SETFL, os.O_DIRECT)\nfor _ in range(10): os.write(f, b'junk')";
    for _ in 0..3 {
        assert_eq!(sh(&mut shell, &format!("/usr/bin/python3 -c \"{packets}\"")).await.exit_code, 0);
    }
    assert_eq!(stdout(&mut shell, "echo still here").await, "still here\n");
    // 35: processor time.
    shell.sandbox.close().await.unwrap();
    if isolation.tier == Tier::A {
        let config = BashConfig { cpus: Some(0.1), ..config };
        let mut shell = start_with(&config).await;
        // On a busy machine it may not even get its share.
        let mut rounds = 0;
        while shell.sandbox.cgroup().unwrap().throttled() == 0 {
            rounds += 1;
            assert!(rounds < 30, "never held back");
            sh(&mut shell, "t=$((SECONDS+1)); while [ $SECONDS -lt $t ]; do :; done").await;
        }
        shell.sandbox.close().await.unwrap();
    }
}

#[tokio::test]
async fn one_sandbox_does_not_see_another() {
    let pool = pool(&BashConfig::default()).await;
    let (mut one, mut other) = (pool.make(None).await.unwrap(), pool.make(None).await.unwrap());
    let marker = marker(9);
    sh(&mut one, &format!("echo secret > /workspace/f; echo secret > /tmp/f; echo secret > /dev/shm/f; {marker} &"))
        .await;
    let seen = "cat /workspace/f /tmp/f /dev/shm/f; cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ls /.workspaces; id -u";
    let outcome = sh(&mut other, seen).await;
    assert!(!outcome.stdout.text.contains("secret") && !outcome.stdout.text.contains(&marker), "{outcome:?}");
    // By their host ids, too, they are strangers.
    let owner = |made: &Made| made.files.stat("/workspace", true).unwrap().st_uid;
    if rustix::process::geteuid().is_root() {
        assert_ne!(owner(&one), owner(&other));
    }
    one.sandbox.close().await.unwrap();
    other.sandbox.close().await.unwrap();
}
