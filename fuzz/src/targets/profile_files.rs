//! The files of a profile and of a login server, whatever a disk made of them.

use crate::network::UNIX;
use cooee_node::{login_server::DirectoryConfig, profile::HostCacheFile, settings::Settings};

pub(crate) fn run(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    match (choice % 3, std::str::from_utf8(bytes)) {
        (0, Ok(text)) => {
            if let Ok(settings) = toml::from_str::<Settings>(text) {
                let again = toml::to_string(&settings).expect("own settings");
                assert_eq!(toml::from_str::<Settings>(&again).expect("own text"), settings);
            }
        }
        (1, Ok(text)) => drop(toml::from_str::<DirectoryConfig>(text)),
        _ => {
            let restored = HostCacheFile::parse(bytes, [], UNIX);
            if let Ok(restored) = restored {
                assert!(restored.host_cache.entries().count() <= 200);
            }
        }
    }
}
