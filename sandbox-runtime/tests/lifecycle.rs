//! The life of a resource and of its sessions, seen by an author's hooks.

#![expect(clippy::unwrap_used, reason = "a test says where it fails")]

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sandbox_runtime::{
    answer::Answer, config::Config, executor::ToolExecutor, host::Host, linked::Linked, prelude::*,
    slice::BackendEntry, types::ExecuteRequest,
};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

/// A host of one resource, which starts on its first use.
fn host<B: sandbox_runtime::backend::Backend>(limits: &Value) -> Host {
    let config = json!({ "resources": { (B::ABOUT.name): limits }, "warmup": { "enabled": false } });
    let config: Config = serde_json::from_value(config).unwrap();
    Host::start(&config, &Linked::of([BackendEntry::of::<B>()], [])).unwrap()
}

async fn call(executor: Arc<ToolExecutor>, action: &'static str) -> Arc<Answer> {
    executor.execute(ExecuteRequest::new(WorkerId::parse("w").unwrap(), action), Vec::new()).await
}

async fn create(executor: Arc<ToolExecutor>, resource: &'static str) -> Result<sandbox_runtime::types::CreatedSession> {
    let request = json!({ "worker_id": "w", "resource_type": resource });
    executor.create_session(serde_json::from_value(request).unwrap()).await
}

/// Waits until something holds, at most 20 seconds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("still not: {what}");
}

mod warmup {
    use super::*;

    static TRIES: AtomicUsize = AtomicUsize::new(0);

    #[derive(Default)]
    struct Flaky;

    /// Starts at the second try.
    #[backend(name = "flaky")]
    impl Flaky {
        async fn warmup(&self) -> Result<()> {
            match TRIES.fetch_add(1, Ordering::Relaxed) {
                0 => Err(ToolError::execution("no disk")),
                _ => Ok(()),
            }
        }

        /// Nothing.
        #[tool]
        async fn act(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn that_failed_is_tried_again_on_the_next_use() {
        let host = host::<Flaky>(&json!({}));
        let executor = host.executor();
        let act = || host.handle().block_on(call(executor.clone(), "flaky:act"));
        let failed = act();
        assert_eq!((failed.code, failed.meta.executed), (ErrorCode::BACKEND_NOT_INITIALIZED, false));
        assert!(failed.message.contains("no disk"), "{}", failed.message);
        let info = &executor.resources()[0];
        assert_eq!((info.warmed_up, info.last_error.is_some()), (false, true));
        assert_eq!(act().code, ErrorCode::SUCCESS);
        let info = &executor.resources()[0];
        assert_eq!((info.warmed_up, info.last_error.is_some()), (true, false));
        act();
        assert_eq!(TRIES.load(Ordering::Relaxed), 2, "a success is not repeated");
    }
}

mod initialize {
    use super::*;

    static CUT: AtomicUsize = AtomicUsize::new(0);

    struct CountDrop(&'static AtomicUsize);

    impl Drop for CountDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Never;

    #[derive(Default)]
    struct Stuck;

    /// Makes no session.
    #[backend(name = "stuck")]
    impl Stuck {
        async fn initialize(&self) -> Result<Never> {
            let _cut = CountDrop(&CUT);
            pending().await
        }

        /// Nothing.
        #[tool]
        async fn act(&self, session: &Never) -> Result<()> {
            let _ = session;
            Ok(())
        }
    }

    #[test]
    fn ends_with_its_time_limit() {
        let host = host::<Stuck>(&json!({ "initialize_timeout_seconds": 0.05 }));
        let executor = host.executor();
        let error = host.handle().block_on(create(executor.clone(), "stuck")).unwrap_err();
        assert_eq!(error.code(), ErrorCode::TIMEOUT_ERROR);
        assert!(error.message().contains("longer than 0.05 s"), "{}", error.message());
        let temporary = host.handle().block_on(call(executor.clone(), "stuck:act"));
        assert_eq!((temporary.code, temporary.meta.executed), (ErrorCode::TIMEOUT_ERROR, false));
        assert_eq!(CUT.load(Ordering::Relaxed), 2, "it is dropped");
        assert_eq!((executor.resources()[0].sessions, executor.readiness().1.active_workers), (0, 0));
    }

    static BEGUN: Notify = Notify::const_new();
    static LEFT: AtomicUsize = AtomicUsize::new(0);

    #[derive(Default)]
    struct Waiting;

    /// Makes no session either.
    #[backend(name = "waiting")]
    impl Waiting {
        async fn initialize(&self) -> Result<Never> {
            let _cut = CountDrop(&LEFT);
            BEGUN.notify_one();
            pending().await
        }

        /// Nothing.
        #[tool]
        async fn act(&self, session: &mut Never) -> Result<()> {
            let _ = session;
            Ok(())
        }
    }

    #[test]
    fn for_one_call_is_cancelled_when_the_caller_leaves() {
        let host = host::<Waiting>(&json!({}));
        let executor = host.executor();
        host.handle().block_on(async {
            let call = tokio::spawn(call(executor.clone(), "waiting:act"));
            BEGUN.notified().await;
            call.abort();
        });
        until("it is dropped", || LEFT.load(Ordering::Relaxed) == 1);
        until("its slot is free", || executor.resources()[0].sessions == 0);
        assert_eq!(executor.readiness().1.active_workers, 0);
    }
}

mod shutdown {
    use super::*;

    /// What is going on, and how many sessions were cleaned up.
    #[derive(Default)]
    struct Ledger {
        calls: AtomicUsize,
        sessions: AtomicUsize,
        cleaned: AtomicUsize,
    }

    struct Open;

    static ENTERED: Semaphore = Semaphore::const_new(0);
    /// Calls, sessions and cleanups as `shutdown` found them.
    static SEEN: Mutex<Vec<(usize, usize, usize)>> = Mutex::new(Vec::new());

    #[derive(Default)]
    struct Orderly;

    /// Keeps a ledger.
    #[backend(name = "orderly")]
    impl Orderly {
        async fn warmup(&self) -> Result<Ledger> {
            Ok(Ledger::default())
        }

        async fn shutdown(&self, ledger: Ledger) -> Result<()> {
            let Ledger { calls, sessions, cleaned } = ledger;
            SEEN.lock().unwrap().push((calls.into_inner(), sessions.into_inner(), cleaned.into_inner()));
            Ok(())
        }

        async fn initialize(&self, ledger: &Ledger) -> Result<Open> {
            ledger.sessions.fetch_add(1, Ordering::Relaxed);
            Ok(Open)
        }

        async fn cleanup(&self, session: Open, ledger: &Ledger) -> Result<()> {
            let _ = session;
            tokio::time::sleep(Duration::from_millis(100)).await;
            ledger.sessions.fetch_sub(1, Ordering::Relaxed);
            ledger.cleaned.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        /// Wait, with or without a session.
        #[tool]
        async fn wait(&self, ledger: &Ledger) -> Result<()> {
            ledger.wait().await;
            Ok(())
        }

        /// Wait with the session.
        #[tool]
        async fn hold(&self, session: &mut Open, ledger: &Ledger) -> Result<()> {
            let _ = session;
            ledger.wait().await;
            Ok(())
        }
    }

    impl Ledger {
        async fn wait(&self) {
            self.calls.fetch_add(1, Ordering::Relaxed);
            ENTERED.add_permits(1);
            tokio::time::sleep(Duration::from_millis(200)).await;
            self.calls.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn runs_once_at_the_end_and_finds_no_user_left() {
        let host = host::<Orderly>(&json!({}));
        let executor = host.executor().clone();
        host.handle().block_on(async {
            create(executor.clone(), "orderly").await.unwrap();
            let calls = ["wait", "hold"].map(|_| tokio::spawn(call(executor.clone(), "orderly:wait")));
            let hold = tokio::spawn(call(executor.clone(), "orderly:hold"));
            let _ = ENTERED.acquire_many(3).await.unwrap();
            assert_eq!(executor.shutdown(Duration::from_secs(20), true).await, 1);
            for call in calls.into_iter().chain([hold]) {
                assert_eq!(call.await.unwrap().code, ErrorCode::SUCCESS, "a call in flight may finish");
            }
            assert_eq!(call(executor.clone(), "orderly:wait").await.code, ErrorCode::SHUTTING_DOWN);
        });
        assert_eq!(*SEEN.lock().unwrap(), [(0, 0, 1)]);
    }

    static UNUSED: AtomicBool = AtomicBool::new(false);

    #[derive(Default)]
    struct Idle;

    /// Is never started.
    #[backend(name = "idle")]
    impl Idle {
        async fn warmup(&self) -> Result<()> {
            Ok(())
        }

        async fn shutdown(&self) -> Result<()> {
            UNUSED.store(true, Ordering::Relaxed);
            Ok(())
        }

        /// Nothing.
        #[tool]
        async fn act(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn of_a_resource_that_was_never_started_does_not_run() {
        let host = host::<Idle>(&json!({}));
        let executor = host.executor().clone();
        host.handle().block_on(async move { executor.shutdown(Duration::from_secs(1), true).await });
        assert!(!UNUSED.load(Ordering::Relaxed));
    }
}
