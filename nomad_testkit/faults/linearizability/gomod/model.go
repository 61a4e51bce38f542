package main

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// The state of one key.
type register struct {
	there bool
	value string
	index uint64 // ModifyIndex; 0 until a get has shown it
}

// Whether a register may be what somebody has seen, by value and index.
func (state register) is(value *string, index uint64) bool {
	if value == nil || !state.there {
		return value == nil && !state.there
	}
	return state.value == *value && (state.index == 0 || state.index == index)
}

// A register with compare-and-set. Every value is written once, so that it stands for the write, as its index does.
var model = porcupine.Model{
	Init: func() interface{} { return register{} },
	Step: func(state, input, _ interface{}) (bool, interface{}) {
		return step(state.(register), input.(operation))
	},
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		var order []string
		keys := map[string][]porcupine.Operation{}
		for _, one := range history {
			key := one.Input.(operation).Key
			if len(keys[key]) == 0 {
				order = append(order, key)
			}
			keys[key] = append(keys[key], one)
		}
		var found [][]porcupine.Operation
		for _, key := range order {
			found = append(found, keys[key])
		}
		return found
	},
	DescribeOperation: func(input, _ interface{}) string { return describe(input.(operation)) },
	DescribeState: func(state interface{}) string {
		now := state.(register)
		switch {
		case !now.there:
			return "absent"
		case now.index == 0:
			return now.value
		}
		return fmt.Sprintf("%s (index %d)", now.value, now.index)
	},
}

// step tells whether an operation can have had its answer in this state, and what the state is afterwards.
func step(state register, one operation) (bool, register) {
	answered := one.Outcome == "ok"
	switch one.Kind {
	case "get":
		if !state.is(one.Value, one.Index) {
			return false, state
		}
		state.index = one.Index
		return true, state
	case "put":
		return true, register{there: true, value: *one.Value}
	case "delete":
		return true, register{}
	case "cas":
		matches := state.is(one.Expected, one.Index)
		if answered && matches != one.Done {
			return false, state
		}
		if matches {
			return true, register{there: true, value: *one.Value}
		}
		return true, state
	}
	panic("there is no operation " + one.Kind)
}

func describe(one operation) string {
	text := map[string]func() string{
		"get":    func() string { return "get" },
		"put":    func() string { return "put " + *one.Value },
		"delete": func() string { return "delete" },
		"cas":    func() string { return fmt.Sprintf("cas %s, %d to %s", shown(one.Expected), one.Index, *one.Value) },
	}[one.Kind]()
	switch {
	case one.Outcome != "ok":
		return text + ": no answer"
	case one.Kind == "get":
		return fmt.Sprintf("%s: %s (index %d)", text, shown(one.Value), one.Index)
	case one.Kind == "cas":
		return fmt.Sprintf("%s: %t", text, one.Done)
	}
	return text
}

func shown(value *string) string {
	if value == nil {
		return "absent"
	}
	return *value
}
