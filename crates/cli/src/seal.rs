//! `keystrata seal`.

use anyhow::Result;

use crate::{
    args::{SealArgs, SettingsArgs},
    input::Input,
    keys,
    output::{Content, Output},
};

/// Everything that can be refused is refused before the input is read and before a KEK is made.
pub(crate) async fn run(args: &SealArgs, settings: &SettingsArgs) -> Result<()> {
    let (path, context) = (args.object.path()?, args.object.context()?);
    let output = Output::prepare(&args.output, Content::Envelope)?;
    let input = Input::open(&args.input)?;
    let keys = keys::open(settings).await?;
    let plaintext = input.read_all()?;
    let sealed = keys.account(path)?.seal(&plaintext, &context).await?;
    output.write(&sealed)
}
