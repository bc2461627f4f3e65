// The command for a Mac: swift run -c release coreml-runner BUNDLE timings.json [ALL|CPU_ONLY|CPU_AND_GPU|CPU_AND_NE]

import Foundation

let arguments = CommandLine.arguments
if arguments.count < 3 {
    print("usage: coreml-runner BUNDLE OUTPUT.json [ALL|CPU_ONLY|CPU_AND_GPU|CPU_AND_NE] [ROUNDS]")
    exit(2)
}
var settings = Settings()
if arguments.count > 3 { settings.computeUnits = arguments[3] }
if arguments.count > 4 {
    guard let rounds = Int(arguments[4]), rounds > 0 else {
        print("error: rounds is a positive number, got \(arguments[4])")
        exit(2)
    }
    settings.rounds = rounds
}
do {
    let runner = try Runner(
        bundle: URL(fileURLWithPath: arguments[1]),
        output: URL(fileURLWithPath: arguments[2]),
        settings: settings
    ) { print($0) }
    try runner.run()
} catch {
    print("error: \(error)")
    exit(1)
}
