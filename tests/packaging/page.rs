//! One manual page.
//!
//! `clap_mangen` writes what a command takes. What our help texts say beyond that follows a few rules, the same in all
//! of them, by which it is set here: a heading is a line that ends with a colon, what is indented below belongs to it;
//! `name  text` with two spaces or more between is an entry of a list; what is indented further is typed as it stands.

use clap::Command;
use clap_mangen::Man;

/// What stands below the pages.
const SOURCE: &str = concat!("AoE toolkit ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "AoE toolkit";

/// Blanks before what is typed in a help text.
const TYPED_INDENT: usize = 6;

/// A page of the manual.
#[derive(Clone, Debug)]
pub struct Page {
    name: String,
    /// Its section, such as `8`.
    pub section: &'static str,
    /// Whether it is of one command of a program that has several.
    pub is_part: bool,
    /// In the language of roff(7).
    pub text: String,
}

impl Page {
    /// The page of a command that was built.
    pub fn of_command(command: &Command, section: &'static str, date: &str) -> Page {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        let man = Man::new(command.clone()).title(&name).section(section).source(SOURCE).manual(MANUAL).date(date);
        let help = Help::read(&command.get_after_help().map(ToString::to_string).unwrap_or_default());
        let mut bytes = Vec::new();
        let written = (|| {
            man.render_title(&mut bytes)?;
            man.render_name_section(&mut bytes)?;
            man.render_synopsis_section(&mut bytes)?;
            man.render_description_section(&mut bytes)?;
            bytes.extend_from_slice(help.description.as_bytes());
            if command.get_arguments().any(|argument| !argument.is_hide_set()) {
                man.render_options_section(&mut bytes)?;
            }
            if command.get_subcommands().any(|command| !command.is_hide_set()) {
                man.render_subcommands_section(&mut bytes)?;
            }
            bytes.extend_from_slice(help.sections.as_bytes());
            std::io::Result::Ok(())
        })();
        written.expect("memory takes all that is written");
        let text = String::from_utf8(bytes).expect("the text was text before");
        let is_part = command.get_bin_name().is_some_and(|name| name.contains(' '));
        Page { name, section, is_part, text: tidy(&text) }
    }

    /// The page of a configuration file.
    pub fn of_file(file: &ConfigFile, date: &str) -> Page {
        let name = file.name.to_owned();
        let ConfigFile { path, about, description, .. } = file;
        let mut text = format!(
            ".TH {name} {section} {date} \"{SOURCE}\" \"{MANUAL}\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n\\fI{}\\fR\n",
            escape(&name),
            escape(about),
            escape(path),
            section = ConfigFile::SECTION,
        );
        text += ".SH DESCRIPTION\n";
        for paragraph in description.split("\n\n") {
            text += ".PP\n";
            paragraph.lines().for_each(|line| text += &format!("{}\n", escape(line)));
        }
        for (heading, keys) in &file.sections {
            text += &format!(".SH \"{}\"\n", escape(heading));
            for ConfigKey { name, kind, default, about } in keys {
                let (name, kind) = (escape_within(name), escape_within(kind));
                text += &format!(".TP\n\\fB{name}\\fR = \\fI{kind}\\fR\n{}\n", escape(about));
                if !default.is_empty() {
                    text += &format!(".br\nDefault: {}.\n", escape_within(default));
                }
            }
        }
        text += ".SH EXAMPLES\nThe file as it is installed:\n.PP\n.RS 4\n.nf\n";
        file.installed.lines().for_each(|line| text += &format!("{}\n", escape(line)));
        text += ".fi\n.RE\n";
        Page {
            name,
            section: ConfigFile::SECTION,
            is_part: false,
            text: text.replace(".SH DESCRIPTION\n.PP\n", ".SH DESCRIPTION\n"),
        }
    }

    /// How others refer to it, such as `aoe-stat(8)`.
    pub fn name(&self) -> String {
        format!("{}({})", self.name, self.section)
    }

    /// Such as `aoe-stat.8`.
    pub fn file_name(&self) -> String {
        format!("{}.{}", self.name, self.section)
    }

    /// Refers to other pages, such as `aoe-stat(8)`.
    pub fn see_also(&mut self, names: &[String]) {
        let mut others: Vec<&String> = names.iter().filter(|name| **name != self.name()).collect();
        others.sort_by_key(|name| (name.rsplit('(').next().map(str::to_owned), (*name).clone()));
        let listed = others.iter().map(|name| {
            let (page, section) = name.split_once('(').expect("a page has a section");
            format!(".BR {} ({section}", escape(page))
        });
        self.text += ".SH \"SEE ALSO\"\n";
        self.text += &listed.collect::<Vec<_>>().join(" ,\n");
        self.text.push('\n');
    }
}

/// A configuration file, for its page.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    /// Of the page, such as `aoe-target.toml`.
    pub name: &'static str,
    /// Where it is.
    pub path: &'static str,
    /// What it is for, in a line.
    pub about: &'static str,
    /// What a reader has to know before the keys; an empty line between paragraphs.
    pub description: &'static str,
    /// Headings, and the keys below each.
    pub sections: Vec<(&'static str, Vec<ConfigKey>)>,
    /// As it is installed.
    pub installed: &'static str,
}

impl ConfigFile {
    /// The section of the manual for files.
    const SECTION: &'static str = "5";
}

/// A key of a configuration file.
#[derive(Clone, Debug)]
pub struct ConfigKey {
    /// As it is written.
    pub name: &'static str,
    /// What its value is.
    pub kind: &'static str,
    /// What holds without it; empty if there is nothing to say.
    pub default: &'static str,
    /// What it is for.
    pub about: &'static str,
}

/// A help text, set as a page's parts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Help {
    /// What has no heading.
    description: String,
    /// What has.
    sections: String,
}

impl Help {
    fn read(text: &str) -> Help {
        let mut help = Help::default();
        let mut has_heading = false;
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            let mut lines = paragraph.trim_matches('\n').lines().peekable();
            if let Some(heading) = lines.next_if(|line| !line.starts_with(' ') && line.ends_with(':')) {
                help.sections += &format!(".SH \"{}\"\n", title(heading));
                has_heading = true;
            }
            match lines.peek() {
                Some(line) if line.starts_with(' ') && has_heading => set_indented(lines, &mut help.sections),
                Some(_) => {
                    help.description += ".PP\n";
                    lines.for_each(|line| help.description += &format!("{}\n", escape(line.trim())));
                    has_heading = false;
                }
                None => {}
            }
        }
        help
    }
}

/// A heading as manuals have it.
fn title(heading: &str) -> String {
    match heading.trim_end_matches(':') {
        "Example" | "Examples" => "EXAMPLES".to_owned(),
        "Exit codes" => "EXIT STATUS".to_owned(),
        other => other.to_uppercase(),
    }
}

/// Sets what is indented below a heading.
fn set_indented<'text>(lines: impl Iterator<Item = &'text str>, page: &mut String) {
    let (mut is_entry, mut is_typed) = (false, false);
    for line in lines {
        let indent = line.len() - line.trim_start().len();
        let (line, typed) = (line.trim(), &line[indent.min(TYPED_INDENT)..]);
        let is_deep = indent > 2;
        if is_deep && !is_entry && !is_typed {
            *page += ".RS 4\n.nf\n";
            is_typed = true;
        } else if !is_deep && is_typed {
            *page += ".fi\n.RE\n";
            is_typed = false;
        }
        match line.split_once("  ") {
            Some((name, text)) if !is_deep => {
                *page += &format!(".TP\n\\fB{}\\fR\n{}\n", escape_within(name), escape(text.trim()));
                is_entry = true;
            }
            _ if is_typed => *page += &format!("{}\n", escape(typed)),
            _ if is_deep => *page += &format!("{}\n", escape(line)),
            _ => {
                // The heading has begun a paragraph already.
                let is_first = page.lines().last().is_some_and(|line| line.starts_with(".SH"));
                *page += &format!("{}{}\n.PP\n", if is_first { "" } else { ".PP\n" }, escape(line));
                is_entry = false;
            }
        }
    }
    if is_typed {
        *page += ".fi\n.RE\n";
    }
}

/// A line of text as roff reads it.
fn escape(text: &str) -> String {
    let escaped = escape_within(text);
    // At the beginning of a line these would be commands.
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

/// Text in a line as roff reads it. What is typed keeps its hyphens and quotes.
fn escape_within(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, letter| {
        match letter {
            '\\' => escaped += "\\e",
            '-' => escaped += "\\-",
            '\'' => escaped += "\\(aq",
            '`' => escaped += "\\(ga",
            _ => escaped.push(letter),
        }
        escaped
    })
}

/// Without blanks at the ends of lines, which mean something in roff, and with the definition of an apostrophe once: each
/// section comes with its own.
fn tidy(text: &str) -> String {
    let is_definition = |line: &str| [".ie \\n(.g", ".el .ds Aq"].iter().any(|begin| line.starts_with(begin));
    let (begin, rest): (Vec<_>, Vec<_>) = text.lines().enumerate().partition(|(number, _)| *number < 2);
    let rest = rest.into_iter().filter(|(_, line)| !is_definition(line));
    begin.into_iter().chain(rest).map(|(_, line)| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
Free text with `quotes'.
It goes on.

Places:
  /dev/nbd    the first one
              that is free
  unix:PATH   a socket

Examples:
  Attach it:
      aoe-attach e0.1 \\
          /dev/nbd1

  In a file:
      .hidden  two  blanks

More text.

Exit codes:
  0  done";

    #[test]
    fn a_help_text_becomes_parts_of_a_page() {
        let help = Help::read(HELP);
        let description = ".PP\nFree text with \\(gaquotes\\(aq.\nIt goes on.\n.PP\nMore text.\n";
        assert_eq!(help.description, description);
        let sections = "\
.SH \"PLACES\"
.TP
\\fB/dev/nbd\\fR
the first one
that is free
.TP
\\fBunix:PATH\\fR
a socket
.SH \"EXAMPLES\"
Attach it:
.PP
.RS 4
.nf
aoe\\-attach e0.1 \\e
    /dev/nbd1
.fi
.RE
.PP
In a file:
.PP
.RS 4
.nf
\\&.hidden  two  blanks
.fi
.RE
.SH \"EXIT STATUS\"
.TP
\\fB0\\fR
done
";
        assert_eq!(help.sections, sections);
    }

    #[test]
    fn no_help_is_no_part() {
        assert_eq!(Help::read(""), Help::default());
    }

    #[test]
    fn a_page_refers_to_all_others() {
        let mut command = Command::new("aoe-x").about("Does x");
        command.build();
        let mut page = Page::of_command(&command, "8", "2026-11-22");
        assert!(page.text.starts_with(".ie") || page.text.starts_with(".TH"), "{}", page.text);
        page.see_also(&["b(8)", "aoe-x(8)", "a(8)", "z(5)"].map(str::to_owned));
        assert!(page.text.ends_with(".SH \"SEE ALSO\"\n.BR z (5) ,\n.BR a (8) ,\n.BR b (8)\n"), "{}", page.text);
        assert_eq!((page.name(), page.file_name()), ("aoe-x(8)".into(), "aoe-x.8".into()));
    }
}
