//! What a fence agent says of itself: the resource-agent document of ClusterLabs' agents, made from the command line.

use clap::{Arg, Command};

const LONG: &str = "fence_aoe is an I/O fencing agent for disks shared by ATA over Ethernet. It takes the stations \
    (MAC addresses) of a node off the MAC mask lists of the exports, at every target that serves them, and puts them \
    back. A target confirms that a station is off when no write of it takes effect any more. The lists have to be \
    started once with the stations of all nodes (on with create). A node that is shut out cannot put itself back: run \
    on from another node.";

/// Actions and what to know about each.
const ACTIONS: [(&str, &str); 7] = [
    ("on", " automatic=\"0\""),
    ("off", ""),
    ("status", ""),
    ("monitor", ""),
    ("list", ""),
    ("metadata", ""),
    ("validate-all", ""),
];

/// The document.
pub fn xml(command: &Command) -> String {
    let parameters: String = command.get_arguments().map(parameter).collect();
    let actions: String = ACTIONS.iter().map(|(name, more)| format!("  <action name=\"{name}\"{more} />\n")).collect();
    let (name, short) = (command.get_name(), escape("Fence agent for ATA over Ethernet"));
    format!(
        "<?xml version=\"1.0\" ?>\n<resource-agent name=\"{name}\" shortdesc=\"{short}\" >\n\
         <longdesc>{}</longdesc>\n<vendor-url></vendor-url>\n\
         <parameters>\n{parameters}</parameters>\n<actions>\n{actions}</actions>\n</resource-agent>",
        escape(LONG)
    )
}

/// One option, under its names; nothing for what only a person would ask for.
fn parameter(arg: &Arg) -> String {
    let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else { return String::new() };
    let takes_value = arg.get_action().takes_values();
    let kind = match long {
        _ if !takes_value => "boolean",
        "timeout" | "delay" => "second",
        _ => "string",
    };
    let default = arg.get_default_values().first().filter(|_| takes_value);
    let default = default.map(|value| format!(" default=\"{}\"", escape(&value.to_string_lossy()))).unwrap_or_default();
    let value = arg.get_value_names().filter(|_| takes_value).and_then(<[_]>::first);
    let value = value.map(|name| format!("=[{}]", escape(name).to_ascii_lowercase())).unwrap_or_default();
    let short = arg.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let help = escape(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    let body = format!(
        "    <getopt mixed=\"{short}--{long}{value}\" />\n    <content type=\"{kind}\"{default} />\n    \
         <shortdesc lang=\"en\">{help}</shortdesc>\n  </parameter>\n"
    );
    let required = u8::from(["plug", "devices"].contains(&long));
    let tag = |name: &str, more: &str| {
        format!("  <parameter name=\"{name}\" unique=\"0\" required=\"{required}\"{more}>\n{body}")
    };
    match long {
        "plug" => tag("port", " deprecated=\"1\"") + &tag(long, " obsoletes=\"port\""),
        _ => tag(long, ""),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Args};
    use super::*;
    use clap::{CommandFactory, ValueEnum};

    #[test]
    fn every_action_is_described() {
        let named: Vec<_> = ACTIONS.iter().map(|(name, _)| *name).collect();
        let known = Action::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        assert_eq!(known.map(|value| value.get_name().to_owned()).collect::<Vec<_>>(), named);
    }

    #[test]
    fn every_option_is_described_and_elements_nest() {
        let xml = xml(&Args::command());
        for part in [
            "<resource-agent name=\"fence_aoe\"",
            "<parameter name=\"port\" unique=\"0\" required=\"1\" deprecated=\"1\">",
            "<parameter name=\"plug\" unique=\"0\" required=\"1\" obsoletes=\"port\">",
            "<getopt mixed=\"-o, --action=[action]\" />\n    <content type=\"string\" default=\"off\" />",
            "<content type=\"second\" default=\"20\" />",
            "<getopt mixed=\"--create\" />\n    <content type=\"boolean\" />",
            "<action name=\"on\" automatic=\"0\" />",
        ] {
            assert!(xml.contains(part), "{part} in {xml}");
        }
        let mut open = Vec::new();
        for tag in xml.split('<').skip(2).map(|tag| tag.split_once('>').expect("a whole tag").0) {
            match tag.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None if tag.ends_with('/') => {}
                None => open.push(tag.split(' ').next().unwrap()),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }
}
