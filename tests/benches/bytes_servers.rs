//! The servers under test: bare actix-web handlers that write and read a file, and ours with two tools that do.

use std::{
    fs::File,
    future::{Future as _, poll_fn},
    io::{Read as _, Write as _},
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, ready},
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    body::SizedStream,
    rt::task::{JoinHandle, spawn_blocking},
    web::{self, Bytes, Payload},
};
use futures_core::Stream;
use sandbox_runtime::{linked::Linked, prelude::*, slice::BackendEntry};
use serde_json::json;

#[derive(Default)]
struct Files;

/// One file in, one file out.
#[backend(name = "files")]
impl Files {
    /// Store a file.
    #[tool]
    async fn put(&self, file: ByteStream) -> Result<Saved> {
        file.save(place("ours")).await
    }

    /// The file.
    #[tool(read_only)]
    async fn get(&self) -> Result<ByteStream> {
        ByteStream::from_file(place("source")).await
    }
}

fn place(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("BENCH_FOLDER").unwrap()).join(name)
}

/// Serves until standard input closes; the first line of the output is the address.
pub(crate) fn serve(mode: &str) {
    sandbox_cli::give_memory_back();
    if mode == "bare" {
        return bare();
    }
    let config = json!({ "server": { "port": 0, "workers": 1 }, "resources": { "files": {} } });
    crate::process::serve(config, Linked::of([BackendEntry::of::<Files>()], []));
}

fn bare() {
    actix_web::rt::System::new().block_on(async {
        let app = || {
            App::new().route("/execute/files:put", web::post().to(put)).route("/execute/files:get", web::get().to(get))
        };
        let server = HttpServer::new(app).workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        println!("{}", server.addrs()[0]);
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(async move {
            let _ = spawn_blocking(crate::process::wait_for_end).await;
            handle.stop(true).await;
        });
        server.await.unwrap();
    });
}

/// As the examples of actix-web write it: each piece on the blocking pool as it comes.
async fn put(mut payload: Payload) -> HttpResponse {
    let mut file = web::block(|| File::create(place("bare"))).await.unwrap().unwrap();
    let mut bytes = 0;
    while let Some(piece) = poll_fn(|context| Pin::new(&mut payload).poll_next(context)).await {
        let piece = piece.unwrap();
        bytes += piece.len();
        file = web::block(move || file.write_all(&piece).map(|()| file)).await.unwrap().unwrap();
    }
    HttpResponse::Ok().json(json!({ "bytes": bytes }))
}

/// As actix-files does it: pieces of 64 KiB from the blocking pool.
async fn get(request: HttpRequest) -> HttpResponse {
    let range = request.headers().get("range").unwrap().to_str().unwrap();
    let last: u64 = range.rsplit('-').next().unwrap().parse().unwrap();
    let file = web::block(|| File::open(place("source"))).await.unwrap().unwrap();
    HttpResponse::Ok().body(SizedStream::new(last + 1, Reading { file: Some(file), left: last + 1, piece: None }))
}

struct Reading {
    file: Option<File>,
    left: u64,
    piece: Option<JoinHandle<std::io::Result<(File, Bytes)>>>,
}

impl Stream for Reading {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let wanted = self.left.min(64 * 1024);
        if wanted == 0 {
            return Poll::Ready(None);
        }
        if let Some(mut file) = self.file.take() {
            self.piece = Some(spawn_blocking(move || {
                let mut piece = Vec::with_capacity(wanted as usize);
                (&mut file).take(wanted).read_to_end(&mut piece)?;
                Ok((file, piece.into()))
            }));
        }
        let (file, piece) = ready!(Pin::new(self.piece.as_mut().unwrap()).poll(context)).unwrap()?;
        self.file = Some(file);
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(piece)))
    }
}
