//! `aoe-stat --watch`: a view on a terminal that follows attached disks, or a target, until it is ended.
//!
//! One thread looks again and again, for a look can take long when somebody does not answer; this one draws, and takes
//! keys and signals. The terminal is put back as it was on every way out, also on a crash.

mod rates;
mod screen;
mod view;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::view::{Key, Look, View};
use crate::cli::Subject;
use crate::run_dir::RunDir;
use crate::target_control;

/// How long keys are waited for before signals and looks have their turn.
const TICK: Duration = Duration::from_millis(50);
/// How long a target may take for each part of its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is followed.
#[derive(Clone, Debug)]
pub enum Source {
    /// Disks that are attached on this host; all, or those that are meant.
    Attached(RunDir, Option<Subject>),
    /// The target with this control socket.
    Target(PathBuf),
}

/// A look, and what else is wrong; or why there is none.
type Seen = Result<(Look, Option<String>), String>;

impl Source {
    fn look(&self) -> Seen {
        match self {
            Self::Attached(run_dir, subject) => {
                let mut trouble = None;
                let found = run_dir.attached(|error| trouble = Some(error.to_string())).map_err(|it| it.to_string())?;
                let wanted = found.into_iter().filter(|one| subject.as_ref().is_none_or(|subject| subject.is(one)));
                Ok((Look::Attached(wanted.map(|one| one.status).collect()), trouble))
            }
            Self::Target(path) => match target_control::status(path, PATIENCE) {
                Ok(status) => Ok((Look::Target(Box::new(status)), None)),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

/// Follows a source, with a look at each interval, until the user has seen enough.
pub fn watch(source: Source, interval: Duration) -> Result<()> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        bail!("--watch needs a terminal; without it the figures are printed once");
    }
    // Before any thread begins: they inherit it.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;

    let began = Instant::now();
    let (sender, looks) = sync_channel(1);
    let (end, ended) = sync_channel::<()>(0);
    std::thread::Builder::new().name("aoe-look".into()).spawn(move || {
        loop {
            let seen = source.look();
            let goes_on = sender.send((began.elapsed(), seen)).is_ok();
            if !goes_on || ended.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    })?;
    // Its hook for crashes puts the terminal back, too.
    let terminal = ratatui::try_init().context("cannot use the terminal");
    let result = terminal.and_then(|mut terminal| follow(&mut terminal, &looks, &signals));
    let restored = ratatui::try_restore().context("cannot put the terminal back");
    drop(end);
    result.and(restored)
}

fn follow(terminal: &mut DefaultTerminal, looks: &Receiver<(Duration, Seen)>, signals: &SignalFd) -> Result<()> {
    let mut view = View::default();
    loop {
        terminal.draw(|frame| screen::draw(frame, &view)).context("cannot draw")?;
        loop {
            if signals.read_signal()?.is_some() {
                return Ok(());
            }
            match looks.try_recv() {
                Ok((at, Ok((look, trouble)))) => {
                    view.see(at, look, trouble);
                    break;
                }
                Ok((_, Err(why))) => {
                    view.lose_sight(format!("{why}; trying again"));
                    break;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => bail!("the thread that looks has crashed"),
            }
            if event::poll(TICK).context("cannot read keys")? {
                match event::read().context("cannot read keys")? {
                    Event::Key(key) if ends(key) => return Ok(()),
                    Event::Key(key) => meaning(key).into_iter().for_each(|key| view.press(key)),
                    // A new size, among others.
                    _ => {}
                }
                break;
            }
        }
    }
}

fn ends(key: KeyEvent) -> bool {
    let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

fn meaning(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Up),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Down),
        KeyCode::PageUp => Some(Key::PageUp),
        KeyCode::PageDown => Some(Key::PageDown),
        KeyCode::Home => Some(Key::First),
        KeyCode::End => Some(Key::Last),
        KeyCode::Char('?' | 'h') => Some(Key::Help),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn keys_have_their_meanings() {
        assert!(ends(key(KeyCode::Char('q'))) && ends(key(KeyCode::Esc)) && !ends(key(KeyCode::Char('c'))));
        assert!(ends(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert_eq!(meaning(key(KeyCode::Down)), Some(Key::Down));
        assert_eq!(meaning(key(KeyCode::Char('?'))), Some(Key::Help));
        assert_eq!(meaning(key(KeyCode::Char('x'))), None);
    }

    #[test]
    fn a_target_that_is_not_there_is_said() {
        let seen = Source::Target("/nonexistent/control.sock".into()).look();
        assert!(seen.unwrap_err().contains("no aoe-target answers"));
    }
}
