// The app for an iPhone or iPad: one button, one line of progress, and the file to share in the end.

import SwiftUI
import UIKit

@main
struct RunnerApp: App {
    var body: some Scene {
        WindowGroup { RunnerView() }
    }
}

final class RunnerState: ObservableObject {
    @Published var line = "Airplane mode on, charger connected, low power mode off, phone on a cool table?"
    @Published var running = false
    @Published var file: URL?
    private var runner: Runner?

    func start(computeUnits: String) {
        guard !running, let bundle = Bundle.main.url(forResource: "bundle", withExtension: nil) else {
            line = "The folder 'bundle' is not in the app: add it as a folder reference."
            return
        }
        running = true
        file = nil
        var settings = Settings()
        settings.computeUnits = computeUnits
        let documents = FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0]
        let output = documents.appendingPathComponent("timings.json")
        UIApplication.shared.isIdleTimerDisabled = true
        Thread.detachNewThread {
            var last = ""
            do {
                let runner = try Runner(bundle: bundle, output: output, settings: settings) { text in
                    DispatchQueue.main.async { self.line = text }
                }
                DispatchQueue.main.async { self.runner = runner }
                try runner.run()
            } catch {
                last = String(describing: error)
            }
            let message = last
            DispatchQueue.main.async {
                UIApplication.shared.isIdleTimerDisabled = false
                self.running = false
                self.runner = nil
                if !message.isEmpty { self.line = message }
                if FileManager.default.fileExists(atPath: output.path) { self.file = output }
            }
        }
    }

    func stop() {
        runner?.stopped = true
    }
}

struct RunnerView: View {
    @StateObject private var state = RunnerState()
    @State private var units = "ALL"
    @State private var sharing = false

    var body: some View {
        VStack(spacing: 24) {
            Text("latency-lut runner").font(.title2)
            Picker("Compute units", selection: $units) {
                ForEach(["ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE"], id: \.self) { Text($0) }
            }
            .disabled(state.running)
            Text(state.line).multilineTextAlignment(.center)
            Button(state.running ? "Stop" : "Start") {
                if state.running { state.stop() } else { state.start(computeUnits: units) }
            }
            if state.file != nil {
                Button("Share timings.json") { sharing = true }
            }
        }
        .padding()
        .sheet(isPresented: $sharing) {
            if let file = state.file { ShareSheet(file: file) }
        }
    }
}

struct ShareSheet: UIViewControllerRepresentable {
    let file: URL

    func makeUIViewController(context: Context) -> UIActivityViewController {
        UIActivityViewController(activityItems: [file], applicationActivities: nil)
    }

    func updateUIViewController(_ controller: UIActivityViewController, context: Context) {}
}
