// swift-tools-version:5.7
// The runner as a command for a Mac. For an iPhone, README.md says how to make the app.

import PackageDescription

let package = Package(
    name: "coreml-runner",
    platforms: [.macOS(.v12)],
    targets: [
        .executableTarget(
            name: "coreml-runner",
            path: ".",
            exclude: ["README.md", "RunnerApp.swift"],
            sources: ["Schedule.swift", "Runner.swift", "main.swift"]
        )
    ]
)
