//! Puts a [`View`] on a screen of any size.
//!
//! Where there is little room, the table to choose from comes first, columns go by rank, and long tables are turned in
//! pages: the one with the chosen row is shown.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

use super::view::{Board, Column, Row, Sheet, Tone, View};

/// Heights (in lines) from which on there is room for more than the main table.
const ROOM_FOR_KEYS: u16 = 8;
const ROOM_FOR_BELOW: u16 = 12;
const ROOM_FOR_ABOVE: u16 = 18;
/// Rows of the table above the main one.
const ABOVE_ROWS: u16 = 4;

const KEYS: &str = "q ends   arrows, PgUp, PgDn choose   ? explains";

const HELP: &str = "\
Keys
  up, down, k, j     the disk above or below; its paths or stations are shown
  PgUp, PgDn         ten further; Home, End: the first, the last
  ?                  this page, and back
  q, Esc, Ctrl-C     end

Figures are those of the last interval; \"-\" where there are none yet.
  read/s, write/s    requests completed
  r, w MiB/s         data read and written
  p50, p99           half, and 99 of a hundred, took no longer (powers of two)
  resent/s           frames that were lost, or late, and sent again
  again/s            at a target: requests that came again; not run again
  busy, in flight    requests, frames under way
  window             frames that may be under way
  ignored            frames of a station that is shut out

States
  up                 it can be used
  searching          not found yet
  dead               no target answers; requests fail until one does
  held               after a restart, writes wait until old frames have died
  lost               acknowledged data was lost; see the target's log";

/// Draws the screen.
pub fn draw(frame: &mut Frame, view: &View) {
    let area = frame.area();
    if view.explains() {
        let lines = HELP.lines().take(area.height.into());
        lines.enumerate().for_each(|(row, line)| put(frame, area, row as u16, line, Style::new()));
        return;
    }
    let board = view.board();
    let mut rest = area;
    let headline = Style::new().add_modifier(Modifier::BOLD);
    put(frame, cut_top(&mut rest, 1), 0, &board.headline, headline);
    if let Some(trouble) = &board.trouble {
        put(frame, cut_top(&mut rest, 1), 0, trouble, tone(Tone::Bad));
    }
    if area.height >= ROOM_FOR_KEYS {
        let keys = cut_bottom(&mut rest, 1);
        put(frame, keys, 0, KEYS, Style::new().add_modifier(Modifier::DIM));
    }
    let Board { above, main, chosen, below, .. } = board;
    if let Some(above) = above.filter(|_| area.height >= ROOM_FOR_ABOVE) {
        let rows = lines_of(&above).min(ABOVE_ROWS);
        table(frame, cut_top(&mut rest, rows + 2), &above, None);
        cut_top(&mut rest, 1);
    }
    if let Some(below) = below.filter(|_| area.height >= ROOM_FOR_BELOW) {
        let rows = lines_of(&below).clamp(1, (area.height / 3).saturating_sub(2).max(1));
        table(frame, cut_bottom(&mut rest, rows + 2), &below, None);
        cut_bottom(&mut rest, 1);
    }
    table(frame, rest, &main, Some(chosen));
}

fn lines_of(sheet: &Sheet) -> u16 {
    u16::try_from(sheet.rows.len()).unwrap_or(u16::MAX)
}

/// Takes lines from the top of what is left.
fn cut_top(rest: &mut Rect, lines: u16) -> Rect {
    let lines = lines.min(rest.height);
    let cut = Rect { height: lines, ..*rest };
    rest.y += lines;
    rest.height -= lines;
    cut
}

/// Takes lines from the bottom of what is left.
fn cut_bottom(rest: &mut Rect, lines: u16) -> Rect {
    let lines = lines.min(rest.height);
    rest.height -= lines;
    Rect { y: rest.y + rest.height, height: lines, ..*rest }
}

/// A title, heads of columns, and the rows that fit.
fn table(frame: &mut Frame, area: Rect, sheet: &Sheet, chosen: Option<usize>) {
    let room = usize::from(area.height.saturating_sub(2)).max(1);
    let first = chosen.unwrap_or(0) / room * room;
    let shown = &sheet.rows[first.min(sheet.rows.len())..sheet.rows.len().min(first + room)];
    let mut title = sheet.title.clone();
    if shown.len() < sheet.rows.len() {
        title += &format!(", {} to {} of {}", first + 1, first + shown.len(), sheet.rows.len());
    }
    put(frame, area, 0, &title, Style::new().add_modifier(Modifier::BOLD));
    let fit = Fit::new(sheet, shown, area.width.into());
    let heads: Vec<_> = sheet.columns.iter().map(|column| column.title.to_owned()).collect();
    put(frame, area, 1, &fit.line(&heads), Style::new().add_modifier(Modifier::DIM));
    for (number, row) in shown.iter().enumerate() {
        let is_chosen = chosen == Some(first + number);
        let style = if is_chosen { tone(row.tone).add_modifier(Modifier::REVERSED) } else { tone(row.tone) };
        put(frame, area, number as u16 + 2, &fit.line(&row.cells), style);
    }
}

fn tone(tone: Tone) -> Style {
    match tone {
        Tone::Fine => Style::new(),
        Tone::Odd => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
    }
}

/// A line of a part of the screen; what does not fit is cut off.
fn put(frame: &mut Frame, area: Rect, row: u16, text: &str, style: Style) {
    if row < area.height {
        frame.buffer_mut().set_line(area.x, area.y + row, &Line::styled(text, style), area.width);
    }
}

/// The columns that are shown, and their widths.
struct Fit {
    columns: Vec<(usize, usize)>,
    gap: usize,
    all: &'static [Column],
}

impl Fit {
    fn new(sheet: &Sheet, rows: &[Row], width: usize) -> Self {
        let widths = sheet.columns.iter().enumerate().map(|(number, column)| {
            let cells = rows.iter().map(|row| row.cells[number].chars().count());
            (number, cells.max().unwrap_or(0).max(column.title.len()).max(column.width))
        });
        let mut columns: Vec<(usize, usize)> = widths.collect();
        loop {
            let needed: usize = columns.iter().map(|(_, width)| width).sum();
            let gaps = columns.len().saturating_sub(1);
            if needed + 2 * gaps <= width {
                return Self { columns, gap: 2, all: sheet.columns };
            }
            let rank = |place: &usize| sheet.columns[columns[*place].0].rank;
            let least = (0..columns.len()).max_by_key(rank).filter(|place| rank(place) > 0);
            match least.filter(|_| needed + gaps > width) {
                Some(place) => drop(columns.remove(place)),
                None => return Self { columns, gap: 1, all: sheet.columns },
            }
        }
    }

    fn line(&self, cells: &[String]) -> String {
        let padded = self.columns.iter().map(|(number, width)| {
            let text = &cells[*number];
            if self.all[*number].is_words { format!("{text:<width$}") } else { format!("{text:>width$}") }
        });
        padded.collect::<Vec<_>>().join(&" ".repeat(self.gap))
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::{disk, export, target, view};
    use super::super::view::{Key, Look, View};
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use std::time::Duration;

    fn screen(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |row| (0..width).map(|column| buffer[(column, row)].symbol()).collect::<String>();
        (0..height).map(|row| line(row).trim_end().to_owned()).collect()
    }

    fn attached(count: u8) -> View {
        let look = |reads| Look::Attached((1..=count).map(|slot| disk(slot, reads)).collect());
        view([look(1000), look(2000)])
    }

    fn exports(count: u8) -> View {
        let look = |writes| target(1, (0..count).map(|slot| export(slot, writes)).collect());
        view([look(100), look(300)])
    }

    #[test]
    fn a_small_screen_has_what_matters_most() {
        let lines = screen(&attached(2), 80, 24);
        assert_eq!(lines[0], "aoe-stat  attached disks of this host: 2");
        assert_eq!(lines[1], "disks");
        assert_eq!(lines[2], "device state     read/s write/s r MiB/s w MiB/s  r p99  w p99 resent/s errors");
        assert_eq!(lines[3], "e0.1   up           500       0     2.0       0  128us      -        0      0");
        assert_eq!(lines[23], KEYS);
        let below = lines.iter().position(|line| line == "paths of e0.1").unwrap();
        assert_eq!(
            lines[below + 1],
            "target            interface state           RTT window in flight resent/s resent"
        );
        assert!(
            lines[below + 2].starts_with("02:00:00:00:00:02 eth0      up            120us     16"),
            "{}",
            lines[below + 2]
        );
    }

    #[test]
    fn a_wide_screen_has_every_column() {
        let lines = screen(&attached(2), 120, 40);
        for title in ["where", "size", "r p50", "w p50", "errors"] {
            assert!(lines[2].contains(title), "{title}: {}", lines[2]);
        }
        assert!(lines[4].contains("/dev/nbd2") && lines[4].contains("64.0 MiB"), "{}", lines[4]);
    }

    #[test]
    fn a_target_has_all_three_tables() {
        let lines = screen(&exports(3), 100, 30);
        let text = lines.join("\n");
        for word in ["interfaces", "eth1", "exports", "e0.2", "stations of e0.0", "02:00:00:00:00:0a"] {
            assert!(text.contains(word), "{word}\n{text}");
        }
    }

    #[test]
    fn many_exports_are_turned_in_pages() {
        let mut view = exports(200);
        view.press(Key::Last);
        let lines = screen(&view, 80, 24);
        let title = lines.iter().find(|line| line.starts_with("exports, ")).unwrap();
        assert!(title.ends_with(" to 200 of 200"), "{title}");
        let row = lines.iter().find(|line| line.starts_with("e0.199 ")).unwrap();
        assert!(row.contains(" 100 "), "{row}");
        assert!(lines.iter().any(|line| line == "stations of e0.199"));
        view.press(Key::First);
        assert!(screen(&view, 80, 24).iter().any(|line| line.starts_with("exports, 1 to ")));
    }

    #[test]
    fn no_size_is_too_small_or_too_large() {
        let mut lost = exports(200);
        lost.press(Key::Last);
        lost.lose_sight("no aoe-target answers".into());
        let mut explaining = attached(2);
        explaining.press(Key::Help);
        for view in [View::default(), attached(0), attached(40), exports(200), lost, explaining] {
            for (width, height) in (0..30).map(|size| (size * 7, size)).chain([(1, 60), (300, 1), (400, 200)]) {
                let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
                terminal.draw(|frame| draw(frame, &view)).unwrap();
            }
        }
    }

    #[test]
    fn trouble_and_help_are_seen() {
        let mut view = attached(1);
        view.see(Duration::from_secs(9), Look::Attached(vec![]), Some("process 7 does not answer".into()));
        let lines = screen(&view, 80, 24);
        assert_eq!(lines[1..3], ["process 7 does not answer", "nothing is attached"]);
        view.press(Key::Help);
        let lines = screen(&view, 80, 24);
        assert_eq!(lines[0], "Keys");
        assert!(lines.iter().all(|line| line.len() < 80));
        assert!(lines.iter().any(|line| line.starts_with("  lost ")), "it fits");
        view.press(Key::Help);
        assert!(!view.explains());
    }
}
