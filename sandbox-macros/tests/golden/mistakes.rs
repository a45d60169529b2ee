#[backend(name = "vm")]
impl Vm {
    async fn initialize(&self) -> Result<VmSession> {
        Ok(VmSession)
    }

    /// The block stays, without what only the macro understands, and further blocks of the type find a backend.
    #[tool(hiden)]
    async fn click(&self, #[default = 1] x: u32) -> Result<()> {
        Ok(())
    }
}
