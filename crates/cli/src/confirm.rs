//! A person says that it is meant, or a script does so in words that no slip of the pen writes.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};

/// Goes on only if whoever runs this writes `name`, which is `whose` (the name of account, say): typed at the terminal below
/// `plan`, or given as `--yes-i-mean`.
///
/// # Errors
/// If another name was given, or none and nobody is at a terminal to be asked.
pub(crate) fn by_name(plan: &str, whose: &str, name: &str, given: Option<&str>) -> Result<()> {
    let same = |given: &str| {
        if given == name { Ok(()) } else { bail!("{given:?} is not {whose} {name}: nothing was done") }
    };
    if let Some(given) = given {
        return same(given);
    }
    require_terminal(&format!("--yes-i-mean {}", shell_word(name)))?;
    let question = format!("{plan}\nType {name} to go on: ");
    // To the byte: no other spelling of a name is meant.
    same(&ask(&mut io::stdin().lock(), &mut io::stderr(), &question)?)
}

/// Goes on only if whoever runs this answers `yes` to `question` at the terminal, or gave `--yes`.
///
/// # Errors
/// If the answer is another, or nobody is at a terminal to be asked.
pub(crate) fn go_on(question: &str, is_given: bool) -> Result<()> {
    if is_given {
        return Ok(());
    }
    require_terminal("--yes")?;
    match ask(&mut io::stdin().lock(), &mut io::stderr(), &format!("{question} Type yes to go on: "))?.as_str() {
        "yes" => Ok(()),
        _ => bail!("not confirmed: nothing was done"),
    }
}

fn require_terminal(flag: &str) -> Result<()> {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        return Ok(());
    }
    bail!("this has to be confirmed and nobody is at a terminal: run it at one, or give {flag}")
}

/// An input that ends is no answer.
fn ask(input: &mut impl BufRead, output: &mut impl Write, question: &str) -> Result<String> {
    write!(output, "{question}").and_then(|()| output.flush()).context("the question cannot be written")?;
    let mut answer = String::new();
    input.read_line(&mut answer).context("the answer cannot be read")?;
    Ok(answer.strip_suffix('\n').unwrap_or(&answer).to_owned())
}

/// `name` as a shell reads it back.
fn shell_word(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._@:=+-/%".contains(c);
    if name.chars().all(is_plain) { name.to_owned() } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(input: &[u8]) -> String {
        let mut shown = Vec::new();
        let answer = ask(&mut &input[..], &mut shown, "Type acme to go on: ").unwrap();
        assert_eq!(shown, b"Type acme to go on: ");
        answer
    }

    #[test]
    fn only_the_very_name_is_a_confirmation() {
        let same = |given: &str| by_name("", "the name of account", "acme", Some(given));
        assert!(same(&answer(b"acme\n")).is_ok());
        assert!(same(&answer(b"acme")).is_ok());
        for input in [&b""[..], b"\n", b"yes\n", b"Acme\n", b"acme \n", b" acme\n", b"acme/billing\n"] {
            assert!(same(&answer(input)).is_err(), "{input:?}");
        }
    }

    #[test]
    fn an_answer_of_bytes_that_are_no_text_is_an_error() {
        assert!(ask(&mut &b"\xff\n"[..], &mut Vec::new(), "?").is_err());
    }

    #[test]
    fn a_name_is_quoted_for_the_shell() {
        assert_eq!(shell_word("acme/billing"), "acme/billing");
        assert_eq!(shell_word("o'brien & co"), r"'o'\''brien & co'");
    }
}
