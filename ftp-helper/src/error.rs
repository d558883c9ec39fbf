//! An error that knows its exit code, for any room to raise.

use std::fmt;

/// What a failure means to whoever started the program. The numbers are the exit codes of `docs/commands.md`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Code {
    /// It went wrong.
    Failure = 1,
    /// The arguments or the configuration file are not right.
    Usage = 2,
    /// No daemon answers.
    NotRunning = 3,
    /// It ran, and found problems.
    Problems = 4,
    /// The caller may not do this.
    NoPermission = 5,
    /// The connection that was asked about would be denied.
    Denied = 10,
}

/// A failure with its exit code and one message for people.
///
/// It travels inside an [`anyhow::Error`]; [`Code::of`] finds it there.
#[derive(Debug)]
pub struct Fault {
    /// The exit code.
    pub code: Code,
    /// What went wrong, where, and what to do about it.
    pub message: String,
}

impl Fault {
    /// A failure with this code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl Code {
    /// Every code.
    pub const ALL: &[Self] =
        &[Self::Failure, Self::Usage, Self::NotRunning, Self::Problems, Self::NoPermission, Self::Denied];

    /// The code of an error: that of the first [`Fault`] in its chain, otherwise [`Code::Failure`].
    pub fn of(error: &anyhow::Error) -> Self {
        // A Fault may also have been attached as context, where only the outermost error can be downcast to it.
        error
            .downcast_ref::<Fault>()
            .or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<Fault>()))
            .map_or(Self::Failure, |fault| fault.code)
    }
}

impl From<Code> for std::process::ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_code_survives_context_on_both_sides() {
        let fault = || Fault::new(Code::NoPermission, "no");
        assert_eq!(Code::of(&fault().into()), Code::NoPermission);
        let wrapped = Err::<(), _>(fault()).context("while attaching").unwrap_err();
        assert_eq!(Code::of(&wrapped), Code::NoPermission);
        let context = Err::<(), _>(std::io::Error::other("x")).context(fault()).unwrap_err();
        assert_eq!(Code::of(&context), Code::NoPermission);
        let deep = Err::<(), _>(context).context("outer").unwrap_err();
        assert_eq!(Code::of(&deep), Code::NoPermission);
        assert_eq!(Code::of(&anyhow::anyhow!("plain")), Code::Failure);
    }
}
