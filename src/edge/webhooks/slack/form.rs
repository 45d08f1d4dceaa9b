//! Slack's forms: slash commands, and what carries interactivity.

use std::borrow::Cow;

use super::super::Unread;

/// What of a form decides. Each may stand once.
#[derive(Default)]
pub(super) struct Form<'a> {
    /// Interactivity: JSON.
    pub payload: Option<Cow<'a, str>>,
    /// A slash command.
    pub command: Option<Cow<'a, str>>,
    /// `1` in a probe of the URL's certificate.
    pub ssl_check: Option<Cow<'a, str>>,
    /// The workspace.
    pub team_id: Option<Cow<'a, str>>,
    /// The enterprise, in a Grid.
    pub enterprise_id: Option<Cow<'a, str>>,
    /// Who typed it.
    pub user_id: Option<Cow<'a, str>>,
    response_url: Option<Cow<'a, str>>,
    channel_id: Option<Cow<'a, str>>,
}

impl<'a> Form<'a> {
    /// Reads a form (`application/x-www-form-urlencoded`, WHATWG URL, section
    /// 5).
    ///
    /// # Errors
    /// What decides stands twice, or is no UTF-8.
    pub fn read(body: &'a str) -> Result<Self, Unread> {
        let mut form = Form::default();
        for pair in body.split('&') {
            let Some((name, value)) = form_urlencoded::parse(pair.as_bytes()).next() else {
                continue;
            };
            let Some(field) = form.field(&name) else {
                continue;
            };
            if field.is_some() {
                return Err(Unread::Invalid(
                    "a field of the form that decides stands twice",
                ));
            }
            if lost_bytes(pair, &value) {
                return Err(Unread::Invalid("a field of the form is no UTF-8"));
            }
            *field = Some(value);
        }
        Ok(form)
    }

    /// Whether it is no delivery of any kind.
    pub fn says_nothing(&self) -> bool {
        let kinds = [&self.payload, &self.command, &self.ssl_check];
        kinds.into_iter().all(Option::is_none)
    }

    fn field(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        Some(match name {
            "payload" => &mut self.payload,
            "command" => &mut self.command,
            "ssl_check" => &mut self.ssl_check,
            "team_id" => &mut self.team_id,
            "enterprise_id" => &mut self.enterprise_id,
            "user_id" => &mut self.user_id,
            "response_url" => &mut self.response_url,
            "channel_id" => &mut self.channel_id,
            _ => return None,
        })
    }
}

/// Whether decoding put a replacement character where bytes were no UTF-8: then
/// there are more of them than were sent.
fn lost_bytes(pair: &str, value: &str) -> bool {
    const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;
    let found = value.matches(REPLACEMENT).count();
    if found == 0 {
        return false;
    }
    let encoded = pair.to_ascii_uppercase().matches("%EF%BF%BD").count();
    let plain = pair.matches(REPLACEMENT).count();
    found != encoded.saturating_add(plain)
}

/// Whether a field says something.
pub(super) fn said<'a>(field: &'a Option<Cow<'_, str>>) -> Option<&'a str> {
    field.as_deref().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(body: &str) -> Result<Option<String>, Unread> {
        Form::read(body).map(|form| form.command.map(Cow::into_owned))
    }

    #[test]
    fn names_and_values_are_decoded() {
        let ok = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(command("command=%2Fagent"), ok("/agent"));
        assert_eq!(command("a=b&&%63omm%61nd=%2Fagent+x&c"), ok("/agent x"));
        assert_eq!(command("command"), ok(""));
        assert_eq!(command("command=a=b"), ok("a=b"));
        assert_eq!(command("command=100%"), ok("100%"));
        assert_eq!(command("Command=x&commands=y&=z"), Ok(None));
        assert_eq!(command(""), Ok(None));
    }

    #[test]
    fn what_decides_stands_once() {
        for name in [
            "payload",
            "command",
            "ssl_check",
            "team_id",
            "enterprise_id",
            "user_id",
            "response_url",
            "channel_id",
        ] {
            assert!(Form::read(&format!("{name}=x&text=a&text=b")).is_ok());
            assert!(Form::read(&format!("{name}=x&text=a&{name}=x")).is_err());
            assert!(
                Form::read(&format!(
                    "{name}&%{:02x}{}=x",
                    name.as_bytes()[0],
                    &name[1..]
                ))
                .is_err()
            );
        }
    }

    #[test]
    fn what_decides_is_utf_8() {
        for value in ["%FF", "a%C3", "%ED%A0%80", "\u{FFFD}%FF", "%EF%BF%BD%FF"] {
            assert!(command(&format!("command={value}")).is_err(), "{value}");
            assert!(
                command(&format!("command=x&text={value}")).is_ok(),
                "{value}"
            );
        }
        for value in ["\u{FFFD}", "%EF%BF%BD", "%ef%Bf%bd", "gr%C3%BC%C3%9Fe"] {
            assert!(command(&format!("command={value}")).is_ok(), "{value}");
        }
    }
}
