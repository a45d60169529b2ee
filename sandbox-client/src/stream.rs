//! The events of a run as they come; a connection that breaks is replaced by one that goes on where it broke off.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use sandbox_types::{Envelope, ExecuteRequest, RunId};
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    client::HttpServiceClient,
    error::{ClientError, Result, chain},
    events::RunEvent,
    sse::{Message, Parser},
    transport::{QUICK, Reply, Sending},
};

pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// A connection that says nothing for so long is dead: the server shows each ten seconds that it lives.
const SILENCE: Duration = Duration::from_secs(35);
/// How often in a row joining again may fail.
const MAX_TRIES: u32 = 5;
/// The longest pause before joining again: the server cancels a run that nobody follows for 30 seconds.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// The pause before joining again where the server names none.
const RETRY: Duration = Duration::from_secs(1);
/// A connection that lived so long was a good one, also when there was nothing to say.
const LASTING: Duration = Duration::from_secs(10);

/// The events of a run as they come.
///
/// A connection that breaks is replaced by itself, and no event is lost or doubled by that. What the server no longer
/// keeps is told by [`RunEvent::Gap`].
#[derive(Debug)]
pub struct RunStream {
    client: HttpServiceClient,
    /// What began it, until its run is known.
    begun: Option<Box<Sending<ExecuteRequest>>>,
    /// The key to acknowledge once the answer is there.
    own_key: Option<String>,
    run_id: Option<RunId>,
    connection: Option<Response>,
    opened_at: Instant,
    /// Not before this it is joined again.
    join_at: Instant,
    parser: Parser,
    ready: VecDeque<Message>,
    /// The answer of a server that has no streams.
    answer: Option<Box<Envelope>>,
    last_event_id: u64,
    retry: Duration,
    silence: Duration,
    /// How often in a row it broke.
    breaks: u32,
    ended: bool,
}

/// What answered a request for a stream.
enum Opened {
    Stream(Response),
    /// Nothing is left to come.
    Over,
    /// A refusal, or the answer of a server that has no streams.
    Plain(Reply),
}

impl RunStream {
    /// The stream that a request begins.
    pub(crate) async fn begin(client: &HttpServiceClient, sending: Sending<ExecuteRequest>) -> Result<Self> {
        let mut stream = Self::new(client, None, 0);
        let mut sending = Box::new(sending);
        let key = sending.finished_key();
        let opened = open_new(client, &mut sending).await?;
        // Of a request that was sent once.
        stream.own_key = key.filter(|_| sending.attempts_made() == 1);
        stream.begun = Some(sending);
        stream.take_opened(opened)?;
        Ok(stream)
    }

    /// The stream of a run after an event.
    pub(crate) async fn follow(client: &HttpServiceClient, run_id: RunId, last_event_id: u64) -> Result<Self> {
        let opened = open(client, client.events_request(&run_id, last_event_id), QUICK).await?;
        let mut stream = Self::new(client, Some(run_id), last_event_id);
        stream.take_opened(opened)?;
        Ok(stream)
    }

    fn new(client: &HttpServiceClient, run_id: Option<RunId>, last_event_id: u64) -> Self {
        let now = Instant::now();
        Self {
            client: client.clone(),
            begun: None,
            own_key: None,
            run_id,
            connection: None,
            opened_at: now,
            join_at: now,
            parser: Parser::default(),
            ready: VecDeque::new(),
            answer: None,
            last_event_id,
            retry: RETRY,
            silence: SILENCE,
            breaks: 0,
            ended: false,
        }
    }

    /// The events as a [`Stream`]; an error is its last item.
    pub fn into_stream(self) -> Events {
        Events(Reading::Between(Box::new(self)))
    }

    /// The run; none before its first event was read.
    pub fn run_id(&self) -> Option<&RunId> {
        self.run_id.as_ref()
    }

    /// Id of the event that was read last: from here another stream goes on.
    pub fn last_event_id(&self) -> u64 {
        self.last_event_id
    }

    /// The next event; none after the last one. Nothing is lost if this is dropped while it waits.
    ///
    /// # Errors
    /// [`ClientError::Broken`] when the stream broke and could not be joined again, a refusal when the run is no longer
    /// there.
    pub async fn next(&mut self) -> Result<Option<RunEvent>> {
        loop {
            if let Some(answer) = self.answer.take() {
                self.ended = true;
                return Ok(Some(RunEvent::End(answer)));
            }
            while let Some(message) = self.ready.pop_front() {
                if let Some(event) = self.take_message(&message)? {
                    return Ok(Some(event));
                }
            }
            if self.ended {
                return Ok(None);
            }
            let Some(connection) = &mut self.connection else {
                self.join_again().await?;
                continue;
            };
            let why = match timeout(self.silence, connection.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    self.parser.push(&bytes, &mut self.ready);
                    self.retry = self.parser.retry_ms().map_or(self.retry, Duration::from_millis);
                    continue;
                }
                Ok(Ok(None)) => "it ended before its last event".to_owned(),
                Ok(Err(error)) => chain(&error),
                Err(_) => self.silent(),
            };
            self.broke(why)?;
        }
    }

    fn take_message(&mut self, message: &Message) -> Result<Option<RunEvent>> {
        if let Ok(id) = message.id.parse() {
            if id <= self.last_event_id {
                return Ok(None);
            }
            self.last_event_id = id;
        }
        let event = RunEvent::parse(message).map_err(|_| self.client.protocol(StatusCode::OK))?;
        self.breaks = 0;
        match &event {
            Some(RunEvent::Start(start)) => {
                self.run_id = Some(start.run_id.clone());
                self.begun = None;
            }
            Some(RunEvent::End(_)) => {
                self.ended = true;
                self.connection = None;
                if let Some(key) = self.own_key.take() {
                    self.client.state.has_arrived(key);
                }
            }
            _ => {}
        }
        Ok(event)
    }

    fn take_opened(&mut self, opened: Opened) -> Result<()> {
        self.opened_at = Instant::now();
        self.parser = Parser::default();
        match opened {
            Opened::Stream(connection) => self.connection = Some(connection),
            Opened::Over => self.ended = true,
            Opened::Plain(reply) => {
                let answer: Envelope = self.client.envelope(&reply)?;
                if let Some(key) = self.own_key.take() {
                    self.client.state.has_arrived(key);
                }
                if !answer.success {
                    return Err(ClientError::of(answer));
                }
                self.answer = Some(Box::new(answer));
            }
        }
        Ok(())
    }

    async fn join_again(&mut self) -> Result<()> {
        sleep_until(self.join_at).await;
        let opening = async {
            match (&self.run_id, &mut self.begun) {
                (Some(run_id), _) => {
                    let request = self.client.events_request(run_id, self.last_event_id);
                    open(&self.client, request, self.silence).await
                }
                // Sent again, it finds the run that it began.
                (None, Some(begun)) => {
                    self.own_key = None;
                    open_new(&self.client, begun).await
                }
                (None, None) => Err(unknown(&self.client)),
            }
        };
        match timeout(self.silence, opening).await {
            Ok(opened) => match opened.and_then(|opened| self.take_opened(opened)) {
                Err(error) if error.retryable() && !matches!(error, ClientError::Broken { .. }) => {
                    self.broke(chain(&error))?;
                }
                opened => opened?,
            },
            Err(_) => self.broke(self.silent())?,
        }
        Ok(())
    }

    /// The connection is of no use any more.
    ///
    /// # Errors
    /// Joining again is of no use either.
    fn broke(&mut self, why: String) -> Result<()> {
        if self.connection.take().is_some() && self.opened_at.elapsed() >= LASTING {
            self.breaks = 0;
        }
        self.breaks += 1;
        let begins_again = self.begun.as_ref().is_some_and(|begun| begun.may_repeat());
        if (self.run_id.is_none() && !begins_again) || self.breaks > MAX_TRIES {
            return Err(ClientError::Broken { url: self.client.url.clone(), run_id: self.run_id.clone(), why });
        }
        let pause = self.retry.saturating_mul(1 << (self.breaks - 1)).min(MAX_PAUSE);
        self.join_at = Instant::now() + pause;
        Ok(())
    }

    fn silent(&self) -> String {
        format!("it said nothing for {} s", self.silence.as_secs_f64())
    }
}

/// Asks for a stream that a request begins, as often as that may be done.
///
/// # Errors
/// There is no answer.
async fn open_new(client: &HttpServiceClient, sending: &mut Sending<ExecuteRequest>) -> Result<Opened> {
    let url = format!("{}/execute", client.api);
    loop {
        let left = sending.time_left();
        let request = client.http.post(&url).header(ACCEPT, EVENT_STREAM).json(sending.attempt());
        let outcome = match open(client, request, left).await {
            Ok(Opened::Plain(reply)) => Ok(reply),
            Ok(opened) => {
                sending.was_taken();
                return Ok(opened);
            }
            Err(error) => Err(error),
        };
        if !sending.again(client, &outcome).await? {
            return sending.give_up(outcome).map(Opened::Plain);
        }
    }
}

/// Asks for a stream.
///
/// # Errors
/// There is no answer.
async fn open(client: &HttpServiceClient, request: RequestBuilder, limit: Duration) -> Result<Opened> {
    let response = client.open(request, limit).await?;
    let status = response.status();
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if status == StatusCode::NO_CONTENT {
        return Ok(Opened::Over);
    }
    if status.is_success() && media_type.starts_with(EVENT_STREAM) {
        return Ok(Opened::Stream(response));
    }
    client.read(response, limit).await.map(Opened::Plain)
}

fn unknown(client: &HttpServiceClient) -> ClientError {
    ClientError::Broken { url: client.url.clone(), run_id: None, why: "its run is not known".to_owned() }
}

/// The events of a run as a [`Stream`].
pub struct Events(Reading);

/// The stream, and what came of reading it.
type Read = (Box<RunStream>, Result<Option<RunEvent>>);

enum Reading {
    Between(Box<RunStream>),
    Next(Pin<Box<dyn Future<Output = Read> + Send>>),
    Over,
}

impl Stream for Events {
    type Item = Result<RunEvent>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::mem::replace(&mut self.0, Reading::Over) {
                Reading::Between(mut stream) => {
                    self.0 = Reading::Next(Box::pin(async move {
                        let event = stream.next().await;
                        (stream, event)
                    }));
                }
                Reading::Next(mut next) => {
                    let Poll::Ready((stream, event)) = next.as_mut().poll(context) else {
                        self.0 = Reading::Next(next);
                        return Poll::Pending;
                    };
                    if let Ok(Some(_)) = &event {
                        self.0 = Reading::Between(stream);
                    }
                    return Poll::Ready(event.transpose());
                }
                Reading::Over => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io::{BufRead as _, BufReader, Write as _},
        net::{TcpListener, TcpStream},
        pin::Pin,
        thread,
        time::Duration,
    };

    use futures_core::Stream as _;
    use sandbox_types::{ExecuteRequest, WorkerId};

    use super::{ClientError, HttpServiceClient, RunEvent, RunStream};

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\nretry: 1\n\n";
    const START: &str =
        "id: 1\nevent: start\ndata: {\"run_id\":\"r\",\"tool\":\"a:b\",\"actions\":null,\"trace_id\":\"t\"}\n\n";
    const END: &str = "event: result\ndata: {\"success\":true,\"code\":0,\"message\":\"success\",\"data\":7}\n\n";

    fn output(id: u64) -> String {
        format!("id: {id}\nevent: output\ndata: {{\"stream\":\"stdout\",\"offset\":0,\"data\":\"{id}\"}}\n\n")
    }

    /// Answers one connection after the other so, then refuses; the heads of the requests.
    fn serve(answers: Vec<String>, stall: bool) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let serving = thread::spawn(move || {
            let mut open = Vec::new();
            answers
                .into_iter()
                .map(|answer| {
                    let (mut connection, _) = listener.accept().expect("a connection");
                    let head = read_head(&connection);
                    connection.write_all(answer.as_bytes()).expect("is read");
                    if stall {
                        open.push(connection);
                    }
                    head
                })
                .collect()
        });
        (url, serving)
    }

    fn read_head(connection: &TcpStream) -> String {
        let mut reader = BufReader::new(connection);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            assert!(reader.read_line(&mut head).expect("a request") > 0);
            if let Some(value) = head[from..].to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        // What is left unread would reset the connection.
        std::io::copy(&mut std::io::Read::take(&mut reader, length), &mut std::io::sink()).expect("a body");
        head.to_lowercase()
    }

    async fn stream(url: &str) -> Result<RunStream, ClientError> {
        let worker = WorkerId::parse("w").expect("a good id");
        // These servers have nothing but streams.
        let client = HttpServiceClient::new(url, worker.clone())?.with_retries(0);
        client.stream(&ExecuteRequest::new(worker, "a:b")).await
    }

    async fn rest(stream: &mut RunStream) -> Result<Vec<String>, ClientError> {
        let mut events = Vec::new();
        while let Some(event) = stream.next().await? {
            events.push(match event {
                RunEvent::Start(start) => start.run_id.to_string(),
                RunEvent::Output(output) => output.data.into_owned(),
                RunEvent::End(answer) => format!("= {}", answer.data.unwrap_or_default()),
                other => panic!("{other:?}"),
            });
        }
        Ok(events)
    }

    #[tokio::test]
    async fn a_broken_stream_goes_on_where_it_broke_off() {
        let later = "id: 9\nevent: of_a_later_version\ndata: {}\n\n";
        for stall in [false, true] {
            let answers = vec![
                format!("{HEAD}{START}{}{}", output(2), output(3).trim_end()),
                HEAD.to_owned(),
                format!("{HEAD}{}{}{later}", output(2), output(3)),
                "HTTP/1.1 503 Busy\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno".to_owned(),
                format!("{HEAD}id: 10\n{END}"),
            ];
            let (url, serving) = serve(answers, stall);
            let mut stream = stream(&url).await.expect("begins");
            stream.silence = Duration::from_millis(300);
            assert_eq!(rest(&mut stream).await.expect("ends"), ["r", "2", "3", "= 7"]);
            assert_eq!(stream.last_event_id(), 10);
            let heads = serving.join().expect("served");
            assert!(heads[0].starts_with("post /api/v1/execute ") && heads[0].contains("accept: text/event-stream"));
            for (head, seen) in heads[1..].iter().zip([2, 2, 9, 9]) {
                assert!(head.starts_with("get /runs/r/events ") && head.contains("x-worker-id: w"), "{head}");
                assert!(head.contains(&format!("last-event-id: {seen}\r\n")), "{head}");
            }
        }
    }

    #[tokio::test]
    async fn it_is_not_joined_for_ever() {
        let mut answers = vec![format!("{HEAD}{START}")];
        answers.extend(std::iter::repeat_n(HEAD.to_owned(), 5));
        let (url, serving) = serve(answers, false);
        let mut stream = stream(&url).await.expect("begins");
        let error = rest(&mut stream).await.expect_err("breaks");
        assert!(matches!(&error, ClientError::Broken { run_id: Some(_), .. }), "{error}");
        assert!(error.to_string().ends_with("the events of r broke off: it ended before its last event"), "{error}");
        assert_eq!(serving.join().expect("served").len(), 6);
    }

    #[tokio::test]
    async fn events_come_as_a_stream_too_and_an_error_is_the_last_item() {
        for (answers, expected) in [
            (vec![format!("{HEAD}{START}{}id: 3\n{END}", output(2))], "start, output, end"),
            (vec![format!("{HEAD}id: 1\nevent: output\ndata: nonsense\n\n")], "error"),
        ] {
            let (url, serving) = serve(answers, false);
            let mut events = stream(&url).await.expect("begins").into_stream();
            let mut seen = Vec::new();
            while let Some(event) = poll_fn(|context| Pin::new(&mut events).poll_next(context)).await {
                seen.push(match event {
                    Ok(RunEvent::Start(_)) => "start",
                    Ok(RunEvent::Output(_)) => "output",
                    Ok(RunEvent::End(_)) => "end",
                    Ok(other) => panic!("{other:?}"),
                    Err(_) => "error",
                });
            }
            assert_eq!(seen.join(", "), expected);
            serving.join().expect("served");
        }
    }

    #[tokio::test]
    async fn what_is_no_stream_is_a_refusal_or_the_answer() {
        let answer = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
        };
        let refusal = r#"{"success":false,"code":4002,"message":"no such tool","data":null}"#;
        let (url, _) = serve(vec![answer("400 No", refusal)], false);
        let error = stream(&url).await.expect_err("is refused");
        assert!(error.code().is_some_and(|code| code.number() == 4002), "{error}");
        let (url, _) =
            serve(vec![answer("200 OK", r#"{"success":true,"code":0,"message":"success","data":3}"#)], false);
        let mut plain = stream(&url).await.expect("of a server without streams");
        assert_eq!(rest(&mut plain).await.expect("ends"), ["= 3"]);
        let (url, _) = serve(vec![HEAD.to_owned()], false);
        let error = stream(&url).await.expect("begins").next().await.expect_err("nothing is known of its run");
        assert!(matches!(&error, ClientError::Broken { run_id: None, .. }), "{error}");
        let run = sandbox_types::RunId::parse("a/b ?").expect("a good id");
        let (url, served) = serve(vec!["HTTP/1.1 204 Over\r\nconnection: close\r\n\r\n".to_owned()], false);
        let client = HttpServiceClient::new(url, WorkerId::parse("ä").expect("a good id")).expect("a good address");
        assert!(client.follow(&run, 4).await.expect("joins").next().await.expect("is over").is_none());
        let head = served.join().expect("served").remove(0);
        assert!(head.starts_with("get /runs/a%2fb%20%3f/events?worker_id=%c3%a4 "), "{head}");
    }
}
