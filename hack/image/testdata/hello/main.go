// SPDX-License-Identifier: Apache-2.0

// Command hello is what the tests compile.
package main

func main() { println("hello") }
