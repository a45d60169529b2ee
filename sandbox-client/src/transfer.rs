//! Uploads to tools, and downloads from them, of any size.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use futures_core::Stream;
use reqwest::{
    Body, Response,
    header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName},
    multipart::{Form, Part},
};
use sandbox_types::{Envelope, ExecuteRequest};
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt as _,
};

use crate::{
    client::{HttpServiceClient, random},
    error::{ClientError, Result, chain},
};

/// Limit of a transfer that names none: it may take long, as long as it goes on.
const LONGEST: Duration = Duration::from_hours(24);

/// What is sent to a tool.
#[derive(Debug)]
pub struct Upload {
    part: Part,
}

impl Upload {
    /// A file, under its name.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when it cannot be opened.
    pub async fn file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |error| ClientError::Invalid(format!("{} cannot be read: {error}", path.display()));
        let file = File::open(path).await.map_err(failed)?;
        let length = file.metadata().await.map_err(failed)?.len();
        let name = path.file_name().map_or_else(|| "file".into(), |name| name.to_string_lossy().into_owned());
        Ok(Self { part: Part::stream_with_length(Body::from(file), length).file_name(name) })
    }

    /// Bytes.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = bytes.len() as u64;
        Self { part: Part::stream_with_length(Body::from(bytes), length).file_name("file") }
    }

    /// Pieces as they come.
    pub fn stream(pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Self {
        Self { part: Part::stream(Body::wrap_stream(pieces)).file_name("file") }
    }

    /// The name under which the tool sees it.
    #[must_use]
    pub fn with_file_name(self, name: impl Into<String>) -> Self {
        Self { part: self.part.file_name(name.into()) }
    }
}

/// What a tool answers as bytes. Its run, and the session it has, last until the last byte is read, or this is dropped.
#[derive(Debug)]
pub struct Download {
    client: HttpServiceClient,
    response: Response,
}

impl Download {
    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// How many bytes it has, where that is known.
    pub fn content_length(&self) -> Option<u64> {
        self.header(&CONTENT_LENGTH)?.parse().ok()
    }

    /// Its media type.
    pub fn content_type(&self) -> Option<&str> {
        self.header(&CONTENT_TYPE)
    }

    /// The header `Content-Disposition`, which may hold a name.
    pub fn content_disposition(&self) -> Option<&str> {
        self.header(&CONTENT_DISPOSITION)
    }

    /// The next piece; none after the last one.
    ///
    /// # Errors
    /// [`ClientError::Connection`] when it was cut off.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.response.chunk().await.map_err(|error| self.client.failure(&error, LONGEST))
    }

    /// All of it, if it has so many bytes at most.
    ///
    /// # Errors
    /// It has more, or was cut off.
    pub async fn read_to_end(mut self, max_bytes: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(piece) = self.next().await? {
            if all.len() + piece.len() > max_bytes {
                return Err(ClientError::Invalid(format!("the download has more than {max_bytes} bytes")));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Writes it to a file, whole or not at all; how many bytes it has.
    ///
    /// # Errors
    /// It was cut off, or the file cannot be written.
    pub async fn save(mut self, path: impl AsRef<Path>) -> Result<u64> {
        let path = path.as_ref();
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{:016x}.part", random()));
        let saved = self.write(Path::new(&beside), path).await;
        if saved.is_err() {
            // It may not even have been made.
            let _ = fs::remove_file(&beside).await;
        }
        saved
    }

    async fn write(&mut self, beside: &Path, path: &Path) -> Result<u64> {
        let failed = |error: std::io::Error| {
            ClientError::Invalid(format!("{} cannot be written: {}", path.display(), chain(&error)))
        };
        let mut file = File::create_new(beside).await.map_err(failed)?;
        let mut written = 0;
        while let Some(piece) = self.next().await? {
            file.write_all(&piece).await.map_err(failed)?;
            written += piece.len() as u64;
        }
        file.flush().await.map_err(failed)?;
        drop(file);
        fs::rename(beside, path).await.map_err(failed)?;
        Ok(written)
    }
}

impl HttpServiceClient {
    /// `POST /execute/{tool}`: runs a tool whose parameter `parameter` is an upload. It is sent once.
    ///
    /// # Errors
    /// There is no answer; a tool's own failure is one.
    pub async fn upload(&self, request: &ExecuteRequest, parameter: &str, upload: Upload) -> Result<Envelope> {
        let limit = match request.timeout {
            Some(_) => self.limits(request.timeout)?.1,
            None => LONGEST,
        };
        let json = serde_json::to_string(request)
            .map_err(|error| ClientError::Invalid(format!("the request is not JSON: {error}")))?;
        let json = Part::text(json).mime_str("application/json").map_err(|error| self.failure(&error, limit))?;
        let form = Form::new().part("request", json).part(parameter.to_owned(), upload.part);
        let url = self.route(&["execute", &request.action]);
        let reply = self.once(self.http.post(url).multipart(form), limit).await?;
        self.envelope(&reply)
    }

    /// `POST /execute`: runs a tool whose result is bytes, and reads them as they come. It is sent once.
    ///
    /// # Errors
    /// There is no answer, or the tool failed, or its result is no bytes.
    pub async fn download(&self, request: &ExecuteRequest) -> Result<Download> {
        let (timeout, limit) = self.limits(request.timeout)?;
        let request = ExecuteRequest { timeout, ..request.clone() };
        let post = self.http.post(format!("{}/execute", self.api)).header(ACCEPT, "application/octet-stream");
        let response = self.open(post.json(&request), limit).await?;
        let is_answer = response.headers().get(CONTENT_TYPE).is_some_and(|media_type| media_type == "application/json");
        if response.status().is_success() && !is_answer {
            return Ok(Download { client: self.clone(), response });
        }
        let reply = self.read(response, limit).await?;
        let answer: Envelope = self.envelope(&reply)?;
        if answer.success {
            return Err(ClientError::Invalid(format!("the result of {} is no download", request.action)));
        }
        Err(ClientError::of(answer))
    }
}
