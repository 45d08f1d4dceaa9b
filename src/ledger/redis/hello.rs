//! What is said first over a connection: who is there, and which database is
//! meant. The words are those of RESP2, which every server speaks.

use redis::{Pipeline, RedisConnectionInfo, Value};

use super::fault::Fault;
use super::link::Link;

/// How a server says that it does not take a user's name.
const WRONG_FORM: &str = "wrong number of arguments for 'auth'";

/// Says who is there, and which database is meant. The error is a sentence for
/// people.
pub(super) async fn introduce(link: &Link, hello: &RedisConnectionInfo) -> Result<(), String> {
    let password = hello.password();
    let named = hello.username().filter(|_| password.is_some());
    match greet(link, hello, named).await {
        // Before Redis 6 there was one user, without a name.
        Err(Unwelcome::WrongForm) if named.is_some() => greet(link, hello, None).await,
        outcome => outcome,
    }
    .map_err(|why| match why {
        Unwelcome::WrongForm => "the server does not understand AUTH".to_owned(),
        Unwelcome::Because(why) => why,
    })
}

/// Why an introduction was not taken.
enum Unwelcome {
    /// `AUTH` has another form there.
    WrongForm,
    /// For this reason.
    Because(String),
}

/// Says it, with this user's name.
async fn greet(
    link: &Link,
    hello: &RedisConnectionInfo,
    user: Option<&str>,
) -> Result<(), Unwelcome> {
    let mut commands = Pipeline::new();
    if let Some(password) = hello.password() {
        let auth = commands.cmd("AUTH");
        if let Some(user) = user {
            auth.arg(user);
        }
        auth.arg(password);
    }
    if hello.db() != 0 {
        commands.cmd("SELECT").arg(hello.db());
    }
    // For whoever looks at the server's list of clients. Before 7.2 it is not
    // understood, and that is fine.
    let needed = commands.len();
    for (what, value) in [
        ("LIB-NAME", "tollgate"),
        ("LIB-VER", env!("CARGO_PKG_VERSION")),
    ] {
        commands.cmd("CLIENT").arg("SETINFO").arg(what).arg(value);
    }
    let replies = link.ask_all(&commands).await;
    let replies = replies.map_err(|fault| Unwelcome::Because(fault.to_string()))?;
    let mut answers = replies.iter().take(needed).enumerate();
    let refused = answers.find_map(|(index, reply)| match reply {
        Value::ServerError(error) => Some((index, error)),
        _ => None,
    });
    let Some((index, error)) = refused else {
        return Ok(());
    };
    if error.details().unwrap_or_default().contains(WRONG_FORM) {
        return Err(Unwelcome::WrongForm);
    }
    let fault = Fault::from_server(error);
    Err(Unwelcome::Because(
        if index == 0 && hello.password().is_some() {
            format!("authentication failed: {fault}")
        } else {
            fault.to_string()
        },
    ))
}
