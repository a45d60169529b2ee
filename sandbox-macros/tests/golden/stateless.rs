#[backend(name = "plain", config = "apis.plain", version = "1.2.3")]
impl Plain {
    /// Say nothing.
    #[tool]
    async fn nothing(&self) -> Result<()> {
        Ok(())
    }
}

#[tools]
impl Plain {
    /// Say who calls.
    #[tool(blocking)]
    fn who(&self, worker: &WorkerId) -> Result<String> {
        Ok(worker.to_string())
    }
}
