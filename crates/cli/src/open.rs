//! `keystrata open`.

use anyhow::{Context, Error, Result, anyhow};
use keystrata_hierarchy::OpenError;
use zeroize::Zeroizing;

use crate::{
    args::{OpenArgs, SettingsArgs},
    failure,
    input::Input,
    keys,
    output::{Content, Output},
};

/// Nothing is written before all of the envelope has proved authentic.
pub(crate) async fn run(args: &OpenArgs, settings: &SettingsArgs) -> Result<()> {
    let (path, context) = (args.object.path()?, args.object.context()?);
    let output = Output::prepare(&args.output, Content::Plaintext)?;
    let input = Input::open(&args.input)?;
    let keys = keys::open(settings).await?;
    let envelope = input.read_all()?;
    let plaintext = keys.account(path)?.open(&envelope, &context).await.map_err(with_advice)?;
    let plaintext = Zeroizing::new(plaintext);
    output.write(&plaintext).context("the envelope is authentic, but its plaintext has nowhere to go")
}

/// Adds what to do here where the library's message, which does not know of a command, cannot say it.
pub(crate) fn with_advice(error: OpenError) -> Error {
    match error {
        OpenError::Envelope(error) => failure::of_envelope(error),
        OpenError::Rejected => {
            anyhow!("{error}; give the --account and exactly the --context pairs it was sealed with")
        }
        _ => error.into(),
    }
}
