"""What the tests, the demo and the benchmarks share: processes, Flight reads, Parquet files, comparisons."""
