//! `files`: uploads and downloads of any size, in a folder of the resource's own.

use std::path::PathBuf;

use sandbox_runtime::prelude::*;

struct Files {
    folder: PathBuf,
}

/// Keeps files by name.
#[backend(name = "files")]
impl Files {
    fn new(resource: &ResourceContext) -> Result<Self> {
        // Without `server.data_dir` nothing is kept beyond the machine's own temporary folder.
        let folder = resource.data_dir().map_or_else(|| std::env::temp_dir().join("acme-files"), Into::into);
        std::fs::create_dir_all(&folder).tool_err(ErrorCode::EXECUTION_ERROR)?;
        Ok(Self { folder })
    }

    /// Store a file; answers its size and checksum.
    #[tool]
    async fn put(&self, file: ByteStream, name: String) -> Result<Saved> {
        file.save(self.place(&name)?).await
    }

    /// Count the lines of a file that is not kept.
    #[tool]
    async fn lines(&self, progress: &Progress, file: ByteStream) -> Result<u64> {
        let (mut file, mut lines, mut bytes) = (file, 0, 0);
        while let Some(piece) = file.next().await? {
            lines += piece.split(|byte| *byte == b'\n').count() as u64 - 1;
            bytes += piece.len() as u64;
            progress.report(bytes, file.len(), "bytes");
        }
        Ok(lines)
    }

    /// Get a file.
    #[tool(read_only)]
    async fn get(&self, name: String) -> Result<ByteStream> {
        ByteStream::from_file(self.place(&name)?).await
    }
}

impl Files {
    /// A name is one part of a path: what could lead out of the folder is no name.
    fn place(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            let expected = "a file name without a path";
            return Err(ToolError::parameter(ErrorCode::INVALID_INPUT, "name", expected, format!("`{name}`")));
        }
        Ok(self.folder.join(name))
    }
}
