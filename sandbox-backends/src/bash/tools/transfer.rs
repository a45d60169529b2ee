//! Files of any size, to the sandbox and from it.

use std::io::Write as _;
use std::sync::Arc;

use sandbox_runtime::prelude::*;
use sha2::{Digest, Sha256};

use super::super::files::{Files, fail};
use super::super::{BashBackend, BashSession};
use super::content::hex;
use super::files::{Written, parse_mode};

/// Bytes that are gathered before they are written.
const GATHER_BYTES: usize = 1 << 20;

#[tools]
impl BashBackend {
    /// Store an upload as a file. It takes the place of an old one when it is whole. Folders above it are made.
    #[tool]
    async fn upload(
        &self,
        session: &BashSession,
        /// The file.
        path: String,
        /// What it is to hold.
        data: ByteStream,
        /// Permissions, in octal digits; those of the old file, or `644`, if absent.
        mode: Option<String>,
    ) -> Result<Written> {
        let path = session.path(&path);
        let mode = mode.as_deref().map(parse_mode).transpose()?;
        let files = session.files.clone();
        let target = path.clone();
        let draft = on_thread(&files, move |files| {
            if let Some((parent, _)) = target.rsplit_once('/')
                && !parent.is_empty()
            {
                files.make_folder(parent, true, 0o755)?;
            }
            Ok(files.draft(&target, mode)?)
        })
        .await?;
        let draft = Arc::new(draft);
        let mut data = data;
        let mut hasher = Sha256::new();
        let mut total_bytes = 0;
        let mut gathered = Vec::new();
        loop {
            let piece = data.next().await?;
            let ended = piece.is_none();
            gathered.extend_from_slice(piece.as_deref().unwrap_or_default());
            if gathered.len() >= GATHER_BYTES || (ended && !gathered.is_empty()) {
                total_bytes += gathered.len() as u64;
                let (bytes, draft, path) = (std::mem::take(&mut gathered), draft.clone(), path.clone());
                let hash = std::mem::take(&mut hasher);
                hasher = on_thread(&files, move |_| {
                    (&draft.file).write_all(&bytes).map_err(|error| fail(&path, error))?;
                    Ok(hash.chain_update(&bytes))
                })
                .await?;
            }
            if ended {
                break;
            }
        }
        let draft = Arc::into_inner(draft)
            .ok_or_else(|| ToolError::new(ErrorCode::INTERNAL_ERROR, "the upload is still written"))?;
        on_thread(&files, move |_| Ok(draft.publish()?)).await?;
        Ok(Written { total_bytes, sha256: Some(hex(&hasher.finalize())) })
    }

    /// Fetch a file of any size.
    #[tool(read_only)]
    async fn download(
        &self,
        session: &BashSession,
        /// The file.
        path: String,
    ) -> Result<ByteStream> {
        let path = session.path(&path);
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let file = on_thread(&session.files, move |files| Ok(files.open(&path)?)).await?;
        Ok(ByteStream::from_open_file(file)?.with_file_name(name))
    }
}

/// Works on files on a thread that may wait, with the rights of the shell's user.
async fn on_thread<T: Send + 'static>(
    files: &Arc<Files>,
    work: impl FnOnce(&Files) -> Result<T> + Send + 'static,
) -> Result<T> {
    let files = files.clone();
    let done = tokio::task::spawn_blocking(move || {
        let message = "the server cannot take on the rights of the sandbox's user";
        let _user = files
            .as_user()
            .map_err(|error| ToolError::new(ErrorCode::INTERNAL_ERROR, format!("{message}: {error}")))?;
        work(&files)
    });
    done.await.unwrap_or_else(|error| Err(ToolError::new(ErrorCode::INTERNAL_ERROR, error.to_string())))
}
