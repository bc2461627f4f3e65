// Loads the bundle's programs one after another and times predictions with a monotonic clock.

import CoreML
import CryptoKit
import Foundation

let runnerName = "latency-lut runner 1"

func now() -> UInt64 {
    DispatchTime.now().uptimeNanoseconds
}

/// The smallest step that the clock was seen to make, and what reading it costs, in nanoseconds.
func clockStepAndCost() -> (step: Double, cost: Double) {
    let reads = 2000
    var previous = now()
    let first = previous
    var step = UInt64.max
    for _ in 0..<reads {
        let current = now()
        if current > previous { step = min(step, current - previous) }
        previous = current
    }
    return (step == .max ? 1 : Double(step), max(1, Double(previous - first) / Double(reads)))
}

func thermalName(_ state: ProcessInfo.ThermalState) -> String {
    switch state {
    case .nominal: return "nominal"
    case .fair: return "fair"
    case .serious: return "serious"
    case .critical: return "critical"
    @unknown default: return "unknown"
    }
}

func savesPower() -> Bool {
    if #available(iOS 9.0, macOS 12.0, *) { return ProcessInfo.processInfo.isLowPowerModeEnabled }
    return false
}

func systemText(_ name: String) -> String {
    var size = 0
    guard sysctlbyname(name, nil, &size, nil, 0) == 0, size > 1 else { return "unknown" }
    var bytes = [CChar](repeating: 0, count: size)
    guard sysctlbyname(name, &bytes, &size, nil, 0) == 0 else { return "unknown" }
    return String(cString: bytes)
}

func describeDevice() -> RunnerDevice {
    // On iOS hw.machine is the model (iPhone15,2); on macOS it is the architecture, and hw.model the model.
    #if os(macOS)
    let model = systemText("hw.model")
    let system = "macOS " + ProcessInfo.processInfo.operatingSystemVersionString
    let architecture = systemText("hw.machine")
    #else
    let model = systemText("hw.machine")
    let system = "iOS " + ProcessInfo.processInfo.operatingSystemVersionString
    let architecture = "arm64"
    #endif
    var kind = "other"
    #if os(macOS)
    kind = "mac"
    #else
    if model.hasPrefix("iPhone") { kind = "iphone" }
    if model.hasPrefix("iPad") { kind = "ipad" }
    #endif
    return RunnerDevice(
        kind: kind,
        model: model,
        architecture: architecture,
        system: system,
        cores: ProcessInfo.processInfo.processorCount,
        memoryGib: (Double(ProcessInfo.processInfo.physicalMemory) / 1_073_741_824 * 10).rounded() / 10
    )
}

func computeUnits(named name: String) throws -> MLComputeUnits {
    switch name {
    case "ALL": return .all
    case "CPU_ONLY": return .cpuOnly
    case "CPU_AND_GPU": return .cpuAndGPU
    case "CPU_AND_NE":
        if #available(iOS 16.0, macOS 13.0, *) { return .cpuAndNeuralEngine }
        throw RunnerProblem.unusable("CPU_AND_NE needs iOS 16 or macOS 13")
    default: throw RunnerProblem.unusable("compute units are ALL, CPU_ONLY, CPU_AND_GPU or CPU_AND_NE, got \(name)")
    }
}

final class Runner {
    let bundle: URL
    let output: URL
    let settings: Settings
    let report: (String) -> Void
    private let manifest: Manifest
    private let compiledFolder: URL
    private let began = now()
    private var timings: Timings
    /// Failed visits in a row, by program, and the last one's message.
    private var failed: [String: (count: Int, message: String)] = [:]
    private var cooledS = 0
    /// Looked at between visits; set it to stop. What was timed until then is in the file.
    var stopped = false

    init(bundle: URL, output: URL, settings: Settings, report: @escaping (String) -> Void) throws {
        self.bundle = bundle
        self.output = output
        self.settings = settings
        self.report = report
        manifest = try readManifest(Data(contentsOf: bundle.appendingPathComponent("manifest.json")))
        compiledFolder = FileManager.default.temporaryDirectory.appendingPathComponent("latency-lut-compiled")
        let clock = clockStepAndCost()
        timings = Timings(
            bundle: manifest.bundle,
            runner: runnerName,
            device: describeDevice(),
            computeUnits: settings.computeUnits,
            timing: "sustained",
            seed: settings.seed,
            startedAt: instant(Date()),
            endedAt: instant(Date()),
            clockStepNs: clock.step,
            clockCostNs: clock.cost,
            targetBlockMs: settings.blockMs,
            blocksPerVisit: settings.blocks,
            warmUpCalls: settings.warmUpCalls,
            rounds: 0,
            programs: [],
            visits: [],
            failures: []
        )
    }

    /// Times everything. The file of timings is written anew after each round, so that a stop loses one round at most.
    func run() throws {
        try? FileManager.default.removeItem(at: compiledFolder)
        try FileManager.default.createDirectory(at: compiledFolder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: compiledFolder) }
        let usable = try compileAll()
        for round in 0..<settings.rounds where !stopped {
            let order = orderOfRound(round, groups: manifest.groups, seed: settings.seed)
            timings.rounds = round + 1
            for (number, id) in order.enumerated() where !stopped {
                guard let program = usable[id], (failed[id]?.count ?? 0) < settings.mostFailures else { continue }
                coolDown()
                autoreleasepool {
                    do {
                        timings.visits.append(try visit(program, round: round))
                        failed[id] = nil
                    } catch {
                        // One visit may fail for want of memory, and the next one not.
                        failed[id] = (count: (failed[id]?.count ?? 0) + 1, message: String(describing: error))
                        if let failure = failed[id], failure.count >= settings.mostFailures {
                            timings.failures.append(TimingFailure(program: id, message: failure.message))
                        }
                    }
                }
                if number % 25 == 0 {
                    report("round \(round + 1) of \(settings.rounds): \(number) of \(order.count) programs")
                }
            }
            try save()
        }
        // Too few rounds to fail so often, and never timed: that is a failure too.
        let timed = Set(timings.visits.map { $0.program })
        for (id, failure) in failed where failure.count < settings.mostFailures && !timed.contains(id) {
            timings.failures.append(TimingFailure(program: id, message: failure.message))
        }
        try save()
        report("done: \(timings.visits.count) visits, \(timings.failures.count) programs failed")
    }

    /// Checks every file against the manifest and compiles it. Returns the programs that can be timed.
    private func compileAll() throws -> [String: Manifest.Program] {
        var usable: [String: Manifest.Program] = [:]
        for (number, program) in manifest.programs.enumerated() where !stopped {
            try autoreleasepool {
                for file in program.files {
                    let content = try Data(contentsOf: bundle.appendingPathComponent(file.path), options: .mappedIfSafe)
                    let hash = SHA256.hash(data: content).map { String(format: "%02x", $0) }.joined()
                    guard hash == file.sha256 else { throw RunnerProblem.altered(file.path) }
                }
                timings.programs.append(TimedProgram(program: program.id, digest: program.digest))
                do {
                    let compiled = try MLModel.compileModel(at: bundle.appendingPathComponent(program.path))
                    let place = compiledPlace(program)
                    try? FileManager.default.removeItem(at: place)
                    try FileManager.default.moveItem(at: compiled, to: place)
                    usable[program.id] = program
                } catch {
                    timings.failures.append(TimingFailure(program: program.id, message: "compile: \(error)"))
                }
            }
            if number % 25 == 0 { report("compiled \(number) of \(manifest.programs.count) programs") }
        }
        return usable
    }

    private func compiledPlace(_ program: Manifest.Program) -> URL {
        compiledFolder.appendingPathComponent(program.id + ".mlmodelc")
    }

    private func visit(_ program: Manifest.Program, round: Int) throws -> TimedVisit {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = try computeUnits(named: settings.computeUnits)
        let model = try MLModel(contentsOf: compiledPlace(program), configuration: configuration)
        let feed = try inputs(of: program)
        let at = Double(now() - began) / 1e9
        var worst = ProcessInfo.processInfo.thermalState
        var lowPower = savesPower()
        let calls = callsPerBlock(onceMs: try warmUp(model, feed), settings: settings)
        var blocks: [Double] = []
        for _ in 0..<settings.blocks { blocks.append(try block(of: calls, model, feed)) }
        let after = ProcessInfo.processInfo.thermalState
        if after.rawValue > worst.rawValue { worst = after }
        lowPower = lowPower || savesPower()
        return TimedVisit(
            program: program.id,
            round: round,
            atS: at,
            calls: calls,
            blockMs: blocks,
            thermal: thermalName(worst),
            lowPower: lowPower
        )
    }

    /// Runs the model until it is warm; returns the milliseconds of a warm call.
    private func warmUp(_ model: MLModel, _ feed: MLFeatureProvider) throws -> Double {
        var calls: [Double] = []
        let start = now()
        while calls.count < max(1, settings.warmUpCalls) || Double(now() - start) / 1e6 < settings.warmUpMs {
            calls.append(try block(of: 1, model, feed))
        }
        return median(Array(calls.suffix(settings.sizingCalls)))
    }

    /// Milliseconds of one call, from so many. What the calls leave behind is freed after the clock was read.
    private func block(of calls: Int, _ model: MLModel, _ feed: MLFeatureProvider) throws -> Double {
        try autoreleasepool { () throws -> Double in
            let start = now()
            for _ in 0..<calls { _ = try model.prediction(from: feed) }
            return max(1e-6, Double(now() - start) / 1e6 / Double(calls))
        }
    }

    /// Random inputs between -1 and 1, the same at every visit.
    private func inputs(of program: Manifest.Program) throws -> MLFeatureProvider {
        var generator = SeededGenerator(seed: settings.seed)
        var values: [String: MLFeatureValue] = [:]
        for tensor in program.inputs {
            let array = try MLMultiArray(shape: tensor.shape.map { NSNumber(value: $0) }, dataType: try dataType(tensor.dtype))
            let whole = tensor.dtype == "int32"
            for index in 0..<array.count {
                let value = Double.random(in: -1...1, using: &generator)
                array[index] = NSNumber(value: whole ? 0 : value)
            }
            values[tensor.name] = MLFeatureValue(multiArray: array)
        }
        return try MLDictionaryFeatureProvider(dictionary: values)
    }

    private func dataType(_ name: String) throws -> MLMultiArrayDataType {
        switch name {
        case "float32": return .float32
        case "double": return .double
        case "int32": return .int32
        case "float16":
            if #available(iOS 16.0, macOS 13.0, *) { return .float16 }
            throw RunnerProblem.unusable("float16 inputs need iOS 16 or macOS 13; export with --deployment-target iOS15")
        default: throw RunnerProblem.unusable("unknown input type \(name)")
        }
    }

    /// Waits for a device that is not at its nominal state, for so long at most; visits name their state in any case.
    private func coolDown() {
        var waited = 0
        while !stopped, waited < settings.coolDownS, cooledS < settings.coolDownInAllS,
            ProcessInfo.processInfo.thermalState != .nominal
        {
            if waited == 0 { report("the device is warm: waiting") }
            Thread.sleep(forTimeInterval: 1)
            waited += 1
            cooledS += 1
        }
    }

    private func save() throws {
        timings.endedAt = instant(Date())
        try timings.json().write(to: output, options: .atomic)
    }
}
