//! Requests as bytes: what is written here is what goes over the wire.

/// The body that starts use when a test has nothing to say about bodies.
pub const PROMPT: &str = r#"{"prompt":"fix the build"}"#;

/// The start route that tests use when it does not matter which.
pub const TASKS: &str = "/api/v1/agent/tasks";

/// A request. Only what a test adds is in it, in that order.
#[derive(Clone)]
pub struct Req {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Req {
    /// A request line in HTTP/1.1, with a Host and nothing else.
    pub fn new(method: &str, target: &str) -> Self {
        Req::line(&format!("{method} {target} HTTP/1.1")).header("Host", "api.test")
    }

    /// A request line as it stands, with no header at all.
    pub fn line(line: &str) -> Self {
        Req {
            line: line.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A GET.
    pub fn get(target: &str) -> Self {
        Req::new("GET", target)
    }

    /// A POST with a small JSON body.
    pub fn post(target: &str) -> Self {
        Req::new("POST", target)
            .header("Content-Type", "application/json")
            .body(PROMPT)
    }

    /// A start that this team pays for.
    pub fn start(team: &str) -> Self {
        Req::post(TASKS).team(team)
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Says who pays, as an auth proxy would.
    pub fn team(self, team: &str) -> Self {
        self.header("X-Team-Id", team)
    }

    /// Shows an API key.
    pub fn bearer(self, key: &str) -> Self {
        self.header("Authorization", &format!("Bearer {key}"))
    }

    /// The body, with its Content-Length.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        self.headers.retain(|(name, _)| name != "Content-Length");
        self.body = body.to_vec();
        self.header("Content-Length", &body.len().to_string())
    }

    /// The body in chunks of this size.
    pub fn chunked(mut self, body: &[u8], size: usize) -> Self {
        self.headers.retain(|(name, _)| name != "Content-Length");
        self.body = chunks(body, size);
        self.header("Transfer-Encoding", "chunked")
    }

    /// The head as bytes, with its empty line.
    pub fn head_bytes(&self) -> Vec<u8> {
        let mut head = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// The body as it goes over the wire.
    pub fn body_bytes(&self) -> &[u8] {
        &self.body
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        [self.head_bytes(), self.body.clone()].concat()
    }

    /// Whether the answer to it has no body whatever its head says.
    pub fn is_head(&self) -> bool {
        self.line.starts_with("HEAD ")
    }
}

/// A body in chunks of this size, with the last, empty one.
pub fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / size * 12 + 16);
    for chunk in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Bytes that repeat after a long while, so that a lost or doubled piece shows.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
