//! Replaces the crate `protobuf-src`, so that building Squadron needs no protoc, no cmake and no C++ compiler.
//!
//! The build script of `substrait` asks `protobuf-src` for the path of a protoc and runs it. The real crate compiles
//! Google's protoc from C++ sources. This one answers with the path of the running build script itself: when
//! prost-build starts that path with protoc's arguments, the script asks for the path again, and this time
//! [`protoc`] sees the arguments, compiles the files with `protox` (pure Rust, carries the well-known types), writes
//! the descriptor set and ends the process.
//!
//! ```text
//! build script ── protoc() ──> its own path
//!      └─ prost-build runs that path with `-o FILE ...`
//!              └─ build script ── protoc() ──> compiles, writes FILE, exit 0
//! ```
//!
//! Remove this crate when DataFusion depends on substrait 0.65 or newer, whose feature `protox` does the same.

use std::ffi::OsString;
use std::path::PathBuf;

/// The path of an executable that takes protoc's arguments: the running one.
///
/// Does not return when the process was started as protoc: it ends with 0 when the descriptor set is written, or with
/// 1 and a message on standard error.
///
/// # Panics
///
/// When the operating system does not know the path of the running executable.
pub fn protoc() -> PathBuf {
    if let Some(command) = Command::parse(std::env::args_os().skip(1)) {
        match command.run() {
            Ok(()) => std::process::exit(0),
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
    }
    std::env::current_exe().expect("the path of the running build script")
}

/// The arguments that prost-build gives to protoc.
#[derive(Debug, Default, PartialEq)]
struct Command {
    include_imports: bool,
    include_source_info: bool,
    output: PathBuf,
    includes: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Command {
    /// None when the arguments are not protoc's: cargo runs build scripts without any.
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut command = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--include_imports") => command.include_imports = true,
                Some("--include_source_info") => command.include_source_info = true,
                Some("-o") => command.output = arguments.next()?.into(),
                Some("-I") => command.includes.push(arguments.next()?.into()),
                _ => command.files.push(argument.into()),
            }
        }
        (!command.output.as_os_str().is_empty()).then_some(command)
    }

    /// Compiles the files and writes their descriptor set. An error is the message for standard error.
    fn run(&self) -> Result<(), String> {
        let descriptors = self.compile().map_err(|error| {
            // The other form lacks file and line.
            format!("{error:?}")
        })?;
        std::fs::write(&self.output, descriptors).map_err(|error| format!("{}: {error}", self.output.display()))
    }

    fn compile(&self) -> Result<Vec<u8>, protox::Error> {
        let mut compiler = protox::Compiler::new(&self.includes)?;
        compiler
            .include_imports(self.include_imports)
            .include_source_info(self.include_source_info)
            .open_files(&self.files)?;
        Ok(compiler.encode_file_descriptor_set())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protox::prost_reflect::DescriptorPool;

    fn parse(arguments: &[&str]) -> Option<Command> {
        Command::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn empty_arguments_are_not_protoc() {
        assert_eq!(parse(&[]), None);
    }

    #[test]
    fn prost_build_arguments_compile_known_types() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
        let source = "syntax = \"proto3\";\npackage plan;\nimport \"google/protobuf/any.proto\";\n\
                      message Node { google.protobuf.Any detail = 1; }\n";
        std::fs::write(path("node.proto"), source).unwrap();
        let arguments = [
            "--include_imports",
            "--include_source_info",
            "-o",
            &path("descriptors"),
            "-I",
            &path(""),
            &path("node.proto"),
        ];
        parse(&arguments).unwrap().run().unwrap();

        let descriptors = std::fs::read(path("descriptors")).unwrap();
        let pool = DescriptorPool::decode(descriptors.as_slice()).unwrap();
        let node = pool.get_message_by_name("plan.Node").unwrap();
        assert_eq!(node.get_field_by_name("detail").unwrap().number(), 1);
        assert!(pool.get_message_by_name("google.protobuf.Any").is_some());
    }

    #[test]
    fn invalid_file_fails_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("broken.proto");
        std::fs::write(&file, "message {").unwrap();
        let output = folder.path().join("descriptors");
        let (include, file) = (folder.path().to_str().unwrap(), file.to_str().unwrap());
        let error = parse(&["-o", output.to_str().unwrap(), "-I", include, file]);
        let error = error.unwrap().run().unwrap_err();
        assert!(error.contains("broken.proto:1:"), "{error}");
        assert!(!output.exists());
    }
}
