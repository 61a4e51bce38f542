// Checks whether the history of a key/value store is linearizable, each key by itself.
//
//	linearizability-checker [-limit 60s] [-html FILE] [-faults FILE] HISTORY
//
// HISTORY has one operation a line, as JSON; see the type operation. The verdict goes to standard output, as JSON too.
// The exit status is 0 for any verdict, and 2 for a history that cannot be read.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sort"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// An operation of one client on one key. Times are nanoseconds on one clock.
type operation struct {
	ID       int    `json:"id"`
	Process  int    `json:"process"` // whoever has an operation without an answer goes on as another process
	Kind     string `json:"kind"`    // get, put, cas or delete
	Key      string `json:"key"`
	Call     int64  `json:"call"`
	Returned *int64 `json:"returned"` // nil where no answer came
	Outcome  string `json:"outcome"`  // ok; failed: certainly without effect; unknown: perhaps with effect, now or later

	Value    *string `json:"value"`    // written, or found by a get; nil where there is no such key
	Index    uint64  `json:"index"`    // ModifyIndex that a get found, or that a cas demands; 0 where there is no such key
	Expected *string `json:"expected"` // the value that a cas demands: what a get found with its index
	Done     bool    `json:"done"`     // whether a cas was done, by the answer
}

type fault struct {
	What  string `json:"what"`
	Start int64  `json:"start"`
	End   int64  `json:"end"`
}

type violation struct {
	Key        string `json:"key"`
	Operations []int  `json:"operations"` // a few that cannot be explained, by their ids, in the order of their calls
}

type report struct {
	Verdict    string      `json:"verdict"` // ok, illegal or unknown
	Keys       int         `json:"keys"`
	Operations int         `json:"operations"` // those that the verdict rests on
	Illegal    []violation `json:"illegal"`
	Undecided  []string    `json:"undecided"` // keys for which the time was too short
	Seconds    float64     `json:"seconds"`
}

func main() {
	limit := flag.Duration("limit", time.Minute, "time for the check of all keys")
	html := flag.String("html", "", "file for a picture of what is illegal, written only where something is")
	faults := flag.String("faults", "", "file with faults that the picture shows too, one a line")
	flag.Parse()
	if err := run(flag.Arg(0), *limit, *html, *faults); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func run(path string, limit time.Duration, html, faultsPath string) error {
	started := time.Now()
	operations, err := readLines[operation](path)
	if err != nil {
		return err
	}
	keys, err := byKey(operations)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	end := lastTime(operations) + 1
	results := checkAll(keys, end, limit)
	found := report{Verdict: "ok", Keys: len(keys), Illegal: []violation{}, Undecided: []string{}}
	var shown []operation
	for _, key := range sortedKeys(keys) {
		found.Operations += len(keys[key])
		switch results[key] {
		case porcupine.Illegal:
			found.Illegal = append(found.Illegal, violation{key, ids(shrink(keys[key], end, limit))})
			shown = append(shown, keys[key]...)
		case porcupine.Unknown:
			found.Undecided = append(found.Undecided, key)
		}
	}
	switch {
	case len(found.Illegal) > 0:
		found.Verdict = "illegal"
	case len(found.Undecided) > 0:
		found.Verdict = "unknown"
	}
	if len(shown) > 0 && html != "" {
		if err := draw(shown, end, limit, html, faultsPath); err != nil {
			return err
		}
	}
	found.Seconds = time.Since(started).Seconds()
	return json.NewEncoder(os.Stdout).Encode(found)
}

func readLines[T any](path string) ([]T, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []T
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for number := 1; lines.Scan(); number++ {
		var one T
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, number, err)
		}
		found = append(found, one)
	}
	return found, lines.Err()
}

// byKey sorts operations by their key, without those that prove nothing: failed ones, and gets without an answer.
func byKey(operations []operation) (map[string][]operation, error) {
	keys := map[string][]operation{}
	written := map[string]int{}
	for _, one := range operations {
		if err := validate(one); err != nil {
			return nil, fmt.Errorf("operation %d: %w", one.ID, err)
		}
		if one.Outcome == "failed" || one.Outcome == "unknown" && one.Kind == "get" {
			continue
		}
		if one.Kind == "put" || one.Kind == "cas" {
			// The model takes a value for the one write that it is of.
			name := one.Key + "\x00" + *one.Value
			if first, again := written[name]; again {
				return nil, fmt.Errorf("operations %d and %d write the same value %q to %s", first, one.ID, *one.Value, one.Key)
			}
			written[name] = one.ID
		}
		keys[one.Key] = append(keys[one.Key], one)
	}
	return keys, nil
}

func validate(one operation) error {
	switch {
	case one.Key == "":
		return errors.New("has no key")
	case one.Outcome != "ok" && one.Outcome != "failed" && one.Outcome != "unknown":
		return fmt.Errorf("the outcome is %q, not ok, failed or unknown", one.Outcome)
	case one.Outcome == "ok" && one.Returned == nil:
		return errors.New("is ok, and never returned")
	case one.Returned != nil && *one.Returned < one.Call:
		return errors.New("returned before it was called")
	case one.Kind != "get" && one.Kind != "put" && one.Kind != "cas" && one.Kind != "delete":
		return fmt.Errorf("the kind is %q, not get, put, cas or delete", one.Kind)
	case (one.Kind == "put" || one.Kind == "cas") && one.Value == nil:
		return errors.New("writes no value")
	}
	return nil
}

func checkAll(keys map[string][]operation, end int64, limit time.Duration) map[string]porcupine.CheckResult {
	results := map[string]porcupine.CheckResult{}
	var mutex sync.Mutex
	var all sync.WaitGroup
	for key, operations := range keys {
		all.Add(1)
		go func(key string, operations []operation) {
			defer all.Done()
			result := check(operations, end, limit)
			mutex.Lock()
			defer mutex.Unlock()
			results[key] = result
		}(key, operations)
	}
	all.Wait()
	return results
}

func check(operations []operation, end int64, limit time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(model, history(operations, end), limit)
}

// history gives operations as porcupine takes them; those without an answer last until the end of all time.
func history(operations []operation, end int64) []porcupine.Operation {
	var found []porcupine.Operation
	for _, one := range operations {
		until := end
		if one.Outcome == "ok" {
			until = *one.Returned
		}
		found = append(found, porcupine.Operation{ClientId: one.Process, Input: one, Call: one.Call, Output: one, Return: until})
	}
	return found
}

func lastTime(operations []operation) int64 {
	var last int64
	for _, one := range operations {
		if one.Call > last {
			last = one.Call
		}
		if one.Returned != nil && *one.Returned > last {
			last = *one.Returned
		}
	}
	return last
}

func sortedKeys(keys map[string][]operation) []string {
	var names []string
	for name := range keys {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func ids(operations []operation) []int {
	sort.SliceStable(operations, func(i, j int) bool { return operations[i].Call < operations[j].Call })
	var found []int
	for _, one := range operations {
		found = append(found, one.ID)
	}
	return found
}
