// What to time when, what it says, and the files: the manifest that is read and the timings that are written.
// This file needs Foundation only, so that it can be compiled and tested anywhere.

import Foundation

// MARK: - The bundle's manifest, as far as the runner needs it

struct Manifest: Decodable {
    struct File: Decodable {
        let path: String
        let bytes: Int
        let sha256: String
    }

    struct Tensor: Decodable {
        let name: String
        let shape: [Int]
        let dtype: String
    }

    struct Program: Decodable {
        let id: String
        let what: String
        let path: String
        let digest: String
        let files: [File]
        let inputs: [Tensor]
    }

    let format: String
    let version: Int
    let bundle: String
    let programs: [Program]
    let groups: [[String]]

    static let knownFormat = "latency-lut-coreml-bundle"
    static let knownVersion = 1
}

enum RunnerProblem: Error, CustomStringConvertible {
    case unknownManifest(String)
    case altered(String)
    case unusable(String)

    var description: String {
        switch self {
        case .unknownManifest(let what): return "the manifest is not one that this runner reads: \(what)"
        case .altered(let path): return "\(path) is not the file that was exported; copy the bundle again"
        case .unusable(let what): return what
        }
    }
}

func readManifest(_ content: Data) throws -> Manifest {
    let manifest = try JSONDecoder().decode(Manifest.self, from: content)
    guard manifest.format == Manifest.knownFormat, manifest.version == Manifest.knownVersion else {
        throw RunnerProblem.unknownManifest("\(manifest.format), version \(manifest.version)")
    }
    return manifest
}

// MARK: - The timings: names and types follow schema/timings.schema.json

struct RunnerDevice: Codable {
    let kind: String
    let model: String
    let architecture: String
    let system: String
    let cores: Int
    let memoryGib: Double

    enum CodingKeys: String, CodingKey {
        case kind = "kind"
        case model = "model"
        case architecture = "architecture"
        case system = "system"
        case cores = "cores"
        case memoryGib = "memory_gib"
    }
}

struct TimedProgram: Codable {
    let program: String
    let digest: String

    enum CodingKeys: String, CodingKey {
        case program = "program"
        case digest = "digest"
    }
}

struct TimedVisit: Codable {
    let program: String
    let round: Int
    let atS: Double
    let calls: Int
    let blockMs: [Double]
    let thermal: String
    let lowPower: Bool

    enum CodingKeys: String, CodingKey {
        case program = "program"
        case round = "round"
        case atS = "at_s"
        case calls = "calls"
        case blockMs = "block_ms"
        case thermal = "thermal"
        case lowPower = "low_power"
    }
}

struct TimingFailure: Codable {
    let program: String
    let message: String

    enum CodingKeys: String, CodingKey {
        case program = "program"
        case message = "message"
    }
}

struct Timings: Codable {
    var format = "latency-lut-coreml-timings"
    var version = 1
    var bundle: String
    var synthetic = false
    var runner: String
    var device: RunnerDevice
    var computeUnits: String
    var timing: String
    var seed: UInt64
    var startedAt: String
    var endedAt: String
    var clockStepNs: Double
    var clockCostNs: Double
    var targetBlockMs: Double
    var blocksPerVisit: Int
    var warmUpCalls: Int
    var rounds: Int
    var programs: [TimedProgram]
    var visits: [TimedVisit]
    var failures: [TimingFailure]

    enum CodingKeys: String, CodingKey {
        case format = "format"
        case version = "version"
        case bundle = "bundle"
        case synthetic = "synthetic"
        case runner = "runner"
        case device = "device"
        case computeUnits = "compute_units"
        case timing = "timing"
        case seed = "seed"
        case startedAt = "started_at"
        case endedAt = "ended_at"
        case clockStepNs = "clock_step_ns"
        case clockCostNs = "clock_cost_ns"
        case targetBlockMs = "target_block_ms"
        case blocksPerVisit = "blocks_per_visit"
        case warmUpCalls = "warm_up_calls"
        case rounds = "rounds"
        case programs = "programs"
        case visits = "visits"
        case failures = "failures"
    }

    func json() throws -> Data {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        return try encoder.encode(self)
    }
}

/// UTC to the second, as the schema wants it: 2026-01-31T12:00:00Z.
func instant(_ date: Date) -> String {
    let formatter = DateFormatter()
    formatter.locale = Locale(identifier: "en_US_POSIX")
    formatter.timeZone = TimeZone(identifier: "UTC")
    formatter.dateFormat = "yyyy-MM-dd'T'HH:mm:ss'Z'"
    return formatter.string(from: date)
}

// MARK: - The schedule

/// How the device is timed. A visit is `blocks` blocks of about `blockMs` each; a round is one visit to each program.
/// Before its blocks a program runs for `warmUpMs` and `warmUpCalls` at least, and the last `sizingCalls` of that say how
/// many calls make a block.
struct Settings {
    var rounds = 15
    var blocks = 5
    var blockMs = 4.0
    var warmUpCalls = 3
    var warmUpMs = 50.0
    var sizingCalls = 7
    var mostCalls = 2000
    /// A program that failed so many times in a row is left out from then on.
    var mostFailures = 3
    /// Seconds to wait for a device to cool down: before a visit, and in the whole run.
    var coolDownS = 120
    var coolDownInAllS = 1800
    var seed: UInt64 = 0
    var computeUnits = "ALL"
}

/// A small generator (SplitMix64), so that the order of visits can be repeated from the seed.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// The programs of one round: groups in random order, and each group's programs, which enter one value, close together.
func orderOfRound(_ round: Int, groups: [[String]], seed: UInt64) -> [String] {
    var generator = SeededGenerator(seed: seed &* 1_000_003 &+ UInt64(round))
    var order: [String] = []
    for group in groups.shuffled(using: &generator) {
        order.append(contentsOf: group.shuffled(using: &generator))
    }
    return order
}

/// Calls in a block, so that it lasts about as long as was asked.
func callsPerBlock(onceMs: Double, settings: Settings) -> Int {
    let wanted = (settings.blockMs / max(onceMs, 1e-6)).rounded(.up)
    return Int(min(max(wanted, 1), Double(settings.mostCalls)))
}

// MARK: - Statistics

func median(_ values: [Double]) -> Double {
    let ordered = values.sorted()
    let middle = ordered.count / 2
    if ordered.isEmpty { return .nan }
    return ordered.count % 2 == 1 ? ordered[middle] : (ordered[middle - 1] + ordered[middle]) / 2
}
