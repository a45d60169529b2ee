//! The least HTTP client that can drive the servers.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

/// One request over a keep-alive connection.
pub(crate) fn request(path: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// Sends one request and reads one answer.
pub(crate) fn call(stream: &mut TcpStream, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut buffer = vec![0; 16 * 1024];
    let mut have = 0;
    loop {
        let read = stream.read(&mut buffer[have..]).unwrap();
        assert!(read > 0, "the server closed the connection");
        have += read;
        let text = std::str::from_utf8(&buffer[..have]).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
            if body.len() >= length.unwrap().parse::<usize>().unwrap() {
                return text.to_owned();
            }
        }
    }
}
