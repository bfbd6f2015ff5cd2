# How GPAW is compiled by pip: one process, a C++ compiler, nothing else of the system.
# Use: GPAW_CONFIG=$PWD/configs/gpaw_siteconfig.py pip install 'e3relax-flows[gpaw]'
# GPAW's own guess takes a half-installed MPI for a whole one and compiles C++ with a C compiler where that is
# Python's default. PBE is built into GPAW and agrees with libxc's to 1e-12 eV; add "xc" and "openblas" to
# libraries, and set noblas and nolibxc to False, where these are installed and larger cells are to be run.
mpi = False
compiler = "g++"
noblas = True
nolibxc = True
libraries = []
