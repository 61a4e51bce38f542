package main

import (
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// shrink gives a few of one key's operations that cannot be explained, of many that cannot.
//
// Nothing that it leaves out could explain them: not what comes after the first answer that is wrong; no get and no
// refused cas, which change nothing; and no write that would not help even if it may or may not have had an effect, and
// whose value nobody has seen.
func shrink(operations []operation, end int64, limit time.Duration) []operation {
	deadline := time.Now().Add(limit)
	illegal := func(some []operation) bool {
		left := time.Until(deadline)
		return left > 0 && check(some, end, left) == porcupine.Illegal
	}
	var returns []int64
	for _, one := range operations {
		if one.Outcome == "ok" {
			returns = append(returns, *one.Returned)
		}
	}
	sort.Slice(returns, func(i, j int) bool { return returns[i] < returns[j] })
	// A history that is illegal stays so, however it goes on.
	first := sort.Search(len(returns), func(i int) bool { return illegal(until(operations, returns[i])) })
	if first < len(returns) {
		operations = until(operations, returns[first])
	}
	for i := 0; i < len(operations); {
		one := operations[i]
		without := append(append([]operation{}, operations[:i]...), operations[i+1:]...)
		tried := without
		if writes(one) {
			if seen(one, without) {
				i++
				continue
			}
			opened := one
			opened.Outcome = "unknown"
			tried = append(append([]operation{}, without...), opened)
		}
		if illegal(tried) {
			operations = without
		} else {
			i++
		}
	}
	return operations
}

// until gives what was known at one time: what returned later is a write without an answer yet, or nothing.
func until(operations []operation, at int64) []operation {
	var found []operation
	for _, one := range operations {
		if one.Outcome == "ok" && *one.Returned > at {
			one.Outcome = "unknown"
		}
		if one.Call <= at && (one.Outcome == "ok" || one.Kind != "get") {
			found = append(found, one)
		}
	}
	return found
}

func writes(one operation) bool {
	return one.Kind == "put" || one.Kind == "delete" || one.Kind == "cas" && (one.Done || one.Outcome != "ok")
}

// seen tells whether one of some operations has seen what an operation has written.
func seen(one operation, others []operation) bool {
	for _, other := range others {
		if other.Kind == "get" && same(other.Value, one.Value) || other.Kind == "cas" && same(other.Expected, one.Value) {
			return true
		}
	}
	return false
}

func same(one, other *string) bool {
	return one == other || one != nil && other != nil && *one == *other
}

// draw writes porcupine's picture of some operations into a file, with the faults of that time.
func draw(operations []operation, end int64, limit time.Duration, path, faultsPath string) error {
	numbers := map[int]int{}
	for i := range operations {
		process := operations[i].Process
		if _, known := numbers[process]; !known {
			numbers[process] = len(numbers)
		}
		operations[i].Process = numbers[process]
	}
	_, info := porcupine.CheckOperationsVerbose(model, history(operations, end), limit)
	if faultsPath != "" {
		faults, err := readLines[fault](faultsPath)
		if err != nil {
			return err
		}
		var annotations []porcupine.Annotation
		for _, one := range faults {
			until := one.End
			if until > end {
				until = end
			}
			annotations = append(annotations, porcupine.Annotation{
				Tag: "faults", Start: one.Start, End: until, Description: one.What, BackgroundColor: "#ffd5d5",
			})
		}
		info.AddAnnotations(annotations)
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := porcupine.Visualize(model, info, file); err != nil {
		file.Close()
		return fmt.Errorf("%s: %w", path, err)
	}
	return file.Close()
}
