//! A client that captures by reference, one frame after the other.

use crate::{
    clients::{export_dmabuf::ExportedFrame, Client, Exporter, OutputInfo},
    machine::SECOND,
    stage::Stage,
};

/// A connection that captures by reference.
pub struct Looker {
    pub client: Client,
    pub exporter: Exporter,
    pub output: OutputInfo,
}

impl Looker {
    pub fn new(stage: &Stage<'_>) -> Self {
        let client = stage.client();
        let output = client.output(None).unwrap();
        let exporter = Exporter::new(&client).unwrap();
        Self {
            client,
            exporter,
            output,
        }
    }

    pub fn request(&mut self) -> ExportedFrame {
        self.exporter
            .request(&mut self.client, &self.output, true)
            .unwrap()
    }

    pub fn wait(&mut self, pending: ExportedFrame) -> ExportedFrame {
        pending.wait(&mut self.client, SECOND * 20).unwrap().frame()
    }

    pub fn frame(&mut self) -> ExportedFrame {
        let pending = self.request();
        self.wait(pending)
    }
}
