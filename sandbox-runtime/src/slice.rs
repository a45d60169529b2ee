//! The distributed slices through which linked backends are found, and their entries.

use crate::{
    backend::{Backend, Location},
    erase::{DynBackend, DynBlock, Typed},
    tool::Tool,
};

/// Every linked backend.
#[linkme::distributed_slice]
pub static BACKENDS: [BackendEntry];

/// Every linked `#[tools]` block.
#[linkme::distributed_slice]
pub static TOOL_BLOCKS: [ToolBlock];

/// A linked backend, its type forgotten.
#[derive(Clone, Copy)]
pub struct BackendEntry {
    pub(crate) backend: &'static dyn DynBackend,
}

impl BackendEntry {
    /// The entry of `B`.
    pub const fn of<B: Backend>() -> Self {
        Self { backend: const { &Typed::<B>::new() } }
    }
}

/// Further tools of a backend, its type forgotten.
#[derive(Clone, Copy)]
pub struct ToolBlock {
    pub(crate) block: DynBlock,
    /// Where the block stands.
    pub(crate) location: Location,
}

impl ToolBlock {
    /// A block of tools of `B`.
    pub const fn of<B: Backend>(tools: &'static &'static [Tool<B>], location: Location) -> Self {
        Self { block: DynBlock::of::<B>(tools), location }
    }
}
