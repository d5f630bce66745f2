"""Times, memory and quality of nearlin's routines over growing sizes; `nearlin verify --from-asv` fits exponents to them."""
