package perf

// Scenarios lists what can be measured, in the order of a full run.
func Scenarios() []Scenario {
	return []Scenario{forward(), cost(), scale(), latency()}
}
