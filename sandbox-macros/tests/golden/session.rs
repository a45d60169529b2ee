/// A virtual machine with a screen.
#[backend(name = "vm")]
impl VmBackend {
    async fn new(config: VmConfig) -> Result<Self> {
        Ok(Self { config })
    }

    async fn warmup(&self) -> Result<Pool> {
        Pool::start().await
    }

    async fn shutdown(&self, shared: Pool) -> Result<()> {
        shared.stop().await
    }

    async fn initialize(&self, config: VmSessionConfig, worker: &WorkerId, pool: &Pool) -> VmResult<VmSession> {
        pool.take(config, worker).await
    }

    async fn cleanup(&self, session: &mut VmSession, reason: &EndReason) -> Result<()> {
        session.stop(reason).await
    }

    /// Take a screenshot.
    #[tool(read_only, idempotent, alias = ["shot"], group = "screen")]
    async fn screenshot(&self, session: &VmSession, pool: &Pool) -> Result<Screenshot> {
        session.screenshot().await
    }

    /// Click at a point.
    ///
    /// Nothing happens outside the screen.
    #[tool(timeout = "10s")]
    async fn click(
        self: &Arc<Self>,
        session: &mut VmSession,
        progress: &Progress,
        /// X, in pixels from the left edge.
        #[schemars(range(max = 4096))]
        x: u32,
        /// Y, in pixels from the top edge.
        mut y: u32,
        #[default = "left"] button: Button,
        #[serde(rename = "delay")]
        #[default({"ms": -1, "also": [null, true]})]
        delay_ms: Option<Delay>,
    ) -> Result<()> {
        session.click(x, y).await
    }

    /// Compute for long.
    #[tool(blocking, hidden, name = "compute")]
    #[cfg(feature = "compute")]
    fn run(&self, session: &mut VmSession, cancel: &CancellationToken, #[serde(flatten)] job: Job) -> Result<u64> {
        session.run(job, cancel)
    }

    fn helper(&self) {}
}
