//! Every type, as pyarrow reads it. The files of the first test are written here; the second writes what we read of any
//! folder as Arrow files, for comparing with pyarrow by hand.

use std::fs::File;
use std::path::PathBuf;

use arrow::ipc::writer::StreamWriter;

use super::{cache, collect, mount, open, request, split};

/// `JETBRIDGE_DUMP_FROM` and `JETBRIDGE_DUMP_TO` are folders: each Parquet file of the one becomes an Arrow file in the
/// other, or a text with the error.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a tool; needs JETBRIDGE_DUMP_FROM and JETBRIDGE_DUMP_TO"]
async fn dump_a_folder_as_arrow_files() {
    let folder = |name: &str| std::env::var(name).ok().map(PathBuf::from);
    let (Some(from), Some(to)) = (folder("JETBRIDGE_DUMP_FROM"), folder("JETBRIDGE_DUMP_TO")) else {
        println!("skipped: the folders are not set");
        return;
    };
    let (ufs, cache) = (mount(&from), cache());
    for entry in std::fs::read_dir(&from).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let file = open(&ufs, &name).await;
        let read = async {
            let footer = cache.footer(&file).await?;
            let batches = collect(&cache, request(vec![split(&file, &footer)], &footer.schema)).await?;
            Ok::<_, crate::ReadError>((footer, batches))
        };
        match read.await {
            Ok((footer, batches)) => {
                let out = File::create(to.join(format!("{name}.arrow"))).unwrap();
                let options = arrow::ipc::writer::IpcWriteOptions::default()
                    .with_dictionary_handling(arrow::ipc::writer::DictionaryHandling::Resend);
                let mut writer = StreamWriter::try_new_with_options(out, &footer.schema, options).unwrap();
                for given in batches {
                    if let Err(error) = writer.write(&given.batch) {
                        std::fs::write(to.join(format!("{name}.err")), format!("ipc: {error}")).unwrap();
                    }
                }
                writer.finish().unwrap();
            }
            Err(error) => std::fs::write(to.join(format!("{name}.err")), error.to_string()).unwrap(),
        }
    }
}
