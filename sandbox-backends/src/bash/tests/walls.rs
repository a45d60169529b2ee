use super::super::script;
use super::*;

#[tokio::test]
async fn the_host_is_hidden() {
    let mut shell = start().await;
    assert_eq!(stdout(&mut shell, "whoami; hostname; id -u").await, "sandbox\nsandbox\n1000\n");
    let root = stdout(&mut shell, "echo /*").await;
    for entry in root.split_whitespace() {
        assert!(
            "/bin /dev /etc /lib /lib32 /lib64 /libx32 /proc /run /sbin /tmp /usr /var /workspace".contains(entry),
            "{entry}"
        );
    }
    let absent =
        "for f in /etc/shadow /root /home /sys /boot /opt /srv /mnt /var/log /etc/ssh; do [ -e $f ] && echo $f; done";
    assert_eq!(stdout(&mut shell, absent).await, "");
    assert_eq!(stdout(&mut shell, "ls -d /proc/[0-9]* | wc -l; cat /proc/cmdline").await, "4\n");
    assert_eq!(
        stdout(&mut shell, "tail -n +3 /proc/net/dev | wc -l; tail -n +2 /proc/net/route | wc -l").await,
        "1\n0\n"
    );
    for file in ["environ", "mem", "maps", "fd/", "root/", "cwd/"] {
        assert_ne!(
            sh(&mut shell, &format!("ls -d /proc/1/{file} && cat /proc/1/{file} && ls /proc/1/{file}")).await.exit_code,
            0,
            "{file}"
        );
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let outcome = sh(&mut shell, &format!("(exec 3<>/dev/tcp/127.0.0.1/{port})")).await;
    // Refused by the sandbox's own loopback interface, which is therefore up.
    assert!(outcome.exit_code != 0 && outcome.stderr.text.contains("Connection refused"), "{outcome:?}");
    let outcome = sh(&mut shell, "(exec 3<>/dev/tcp/169.254.169.254/80)").await;
    assert!(outcome.exit_code != 0 && outcome.stderr.text.contains("unreachable"), "{outcome:?}");
    shell.sandbox.close().await.unwrap();
}

#[tokio::test]
async fn resources_are_limited() {
    let config = BashConfig { workspace_mib: 8, tmp_mib: 4, pids: 50, memory_mib: Some(256), ..BashConfig::default() };
    let mut shell = start_with(&config).await;
    let outcome =
        sh(&mut shell, "head -c 20000000 /dev/zero > /workspace/f; stat -c %s /workspace/f; rm /workspace/f").await;
    assert_eq!(outcome.stdout.text, "8388608\n");
    let outcome = sh(&mut shell, "head -c 20000000 /dev/zero > /tmp/f; stat -c %s /tmp/f; rm /tmp/f").await;
    assert_eq!(outcome.stdout.text, "4194304\n");
    // Killed by the control group, or refused by the limit on its address space.
    let code = sh(&mut shell, "dd if=/dev/zero of=/dev/null bs=1G count=1").await.exit_code;
    assert!([1, 137].contains(&code), "{code}");
    let outcome = sh_for(&mut shell, "b() { b | b & }; b; sleep 300", Duration::from_secs(1)).await;
    assert!(outcome.timed_out || outcome.exit_code != 0, "{outcome:?}");
    let outcome = sh(&mut shell, "kill -9 -1; echo alive").await;
    assert!(outcome.stdout.text == "alive\n" || outcome.shell_restarted, "{outcome:?}");
    // Before anything else on the host, when memory is short there.
    let lowered = "echo 0 2>/dev/null > /proc/self/oom_score_adj; cat /proc/self/oom_score_adj";
    let expected = if rustix::process::geteuid().is_root() { "300\n" } else { "0\n" };
    assert_eq!(stdout(&mut shell, "cat /proc/self/oom_score_adj").await, "300\n");
    assert_eq!(stdout(&mut shell, lowered).await, expected);
    shell.sandbox.close().await.unwrap();
}

#[tokio::test]
async fn nothing_of_the_server_is_inherited() {
    let mut shell = start().await;
    let variables = script::exports([(&"GIVEN".to_owned(), &"a b\n'c'".to_owned())]);
    shell.shell.adopt(&variables, Some("/tmp")).await.unwrap();
    assert_eq!(stdout(&mut shell, "pwd; echo \"$GIVEN\"").await, "/tmp\na b\n'c'\n");
    let names = stdout(&mut shell, "compgen -e | sort | tr '\\n' ' '").await;
    assert_eq!(
        names,
        "GIVEN HOME LANG LOGNAME OLDPWD PATH PWD SHELL SHLVL TERM TMPDIR USER _ "
            .replace("OLDPWD ", if names.contains("OLDPWD") { "OLDPWD " } else { "" })
            .replace(" _ ", if names.ends_with("_ ") { " _ " } else { " " })
    );
    assert_eq!(stdout(&mut shell, "bash -c 'ls /proc/$$/fd; :'").await, "0\n1\n2\n");
    assert_eq!(
        stdout(
            &mut shell,
            "grep -E 'CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp:|SigIgn' /proc/self/status | tr -d '\\t\\n'"
        )
        .await,
        "SigIgn:0000000000000000CapPrm:0000000000000000CapEff:0000000000000000CapBnd:0000000000000000NoNewPrivs:1Seccomp:2"
    );
    let error = shell.shell.adopt(&variables, Some("/nonexistent")).await.unwrap_err();
    assert!(error.to_string().contains("`cwd`: the shell could not go there"), "{error}");
    shell.sandbox.close().await.unwrap();
}

#[tokio::test]
async fn the_sandbox_cannot_be_left_or_changed() {
    let mut shell = start().await;
    for command in [
        "touch /x",
        "touch /usr/x",
        "touch /etc/x",
        "echo x >> /etc/passwd",
        "touch /dev/x",
        "mkdir /proc/x",
        "mount -t tmpfs x /tmp",
        "mount -o remount,rw /",
        "umount /proc",
        "unshare -U true",
        "unshare -m true",
        "unshare -n true",
        "chroot / true",
        "mknod /tmp/null c 1 3",
        "su -c true",
        "renice -5 $$",
        "echo 1 > /proc/sys/kernel/core_pattern",
        "ulimit -Hn 1000000",
        "setpriv --reuid 0 true",
        "dmesg",
    ] {
        let outcome = sh(&mut shell, &format!("({command})")).await;
        assert_ne!(outcome.exit_code, 0, "{command}: {outcome:?}");
    }
    assert_eq!(
        stdout(&mut shell, "{ kill -9 1; kill -STOP 1; } 2>/dev/null; sleep 0.1; echo alive; ulimit -c").await,
        "alive\n0\n"
    );
    // ptrace; vsock, raw and packet sockets; io_uring; an x32 call.
    let calls: &[(&str, &str)] = if cfg!(target_arch = "x86_64") {
        &[
            ("101,0,0,0,0", "EPERM"),
            ("41,40,1,0", "EPERM"),
            ("41,2,3,1", "EPERM"),
            ("41,17,3,0", "EPERM"),
            ("425,1,0", "ENOSYS"),
            ("0x40000027", "ENOSYS"),
            ("435,0,0", "ENOSYS"),
            ("56,0x10000000|17,0,0,0,0", "EPERM"),
        ]
    } else {
        &[("117,0,0,0,0", "EPERM"), ("198,40,1,0", "EPERM"), ("425,1,0", "ENOSYS")]
    };
    if sh(&mut shell, "perl -MErrno -e 1").await.exit_code == 0 {
        for (call, error) in calls {
            let outcome = sh(
                &mut shell,
                &format!("perl -MErrno -e 'exit(syscall({call})==-1 && $!{{{error}}} ? 0 : print \"$!\")'"),
            )
            .await;
            assert_eq!(outcome.exit_code, 0, "{call}: {outcome:?}");
        }
    }
    shell.sandbox.close().await.unwrap();
}
